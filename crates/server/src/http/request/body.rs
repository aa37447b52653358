//! The parameters of a request that may have a body: a form or a JSON object.

use std::fmt;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use filepull_core::human;
use filepull_core::problem::Problem;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tokio::time::timeout;

use super::params::Params;
use super::rejection::{Rejection, invalid};

/// A few parameters are some hundred bytes.
const MAX_LEN: usize = 64 * 1024;

/// A caller that has not sent so little by then never will.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// What the query and the body say together.
#[derive(Debug)]
pub(crate) struct RequestParams(pub(crate) Params);

impl<S: Sync> FromRequest<S> for RequestParams {
    type Rejection = Rejection;

    async fn from_request(request: Request, _: &S) -> Result<Self, Rejection> {
        let (head, body) = request.into_parts();
        let mut params = Params::from_query(head.uri.query())?;
        let body = read(body).await?;
        params.merge(parse(&head.headers, &body, example(head.uri.path()))?)?;
        Ok(Self(params))
    }
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    let hint = "Send the parameters as a form or as a JSON object.";
    match timeout(READ_LIMIT, Limited::new(body, MAX_LEN).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(invalid("The body is larger than 64 KiB.", hint))
        }
        Ok(Err(_)) => Err(invalid("The body broke off.", hint)),
        Err(_) => Err(invalid("The body did not arrive within 10 s.", hint)),
    }
}

/// An object that the URL takes: it names the client elsewhere, or calls it by another name.
fn example(path: &str) -> &'static str {
    match path.strip_prefix("/trigger") {
        Some("" | "/") => r#"{"id":"client4"}"#,
        Some(_) => r#"{"queue":"24h"}"#,
        None if path.ends_with("/cancel") => "{}",
        None => r#"{"client":"client4"}"#,
    }
}

fn parse(headers: &HeaderMap, body: &Bytes, example: &str) -> Result<Params, Problem> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let looks_like_json = body.trim_ascii_start().starts_with(b"{");
    match media_type.trim().to_ascii_lowercase().as_str() {
        _ if body.is_empty() => Ok(Params::default()),
        "application/json" => from_json(body, example),
        // What `curl -d '{…}'` says unless it is told otherwise.
        "application/x-www-form-urlencoded" if !looks_like_json => from_form(body),
        _ => {
            let detail = "The body is neither a form nor called JSON by its Content-Type.";
            Err(invalid(detail, "For JSON add: -H \"Content-Type: application/json\""))
        }
    }
}

fn from_form(body: &[u8]) -> Result<Params, Problem> {
    let hint = "For example: curl -d id=client4 localhost:8080/trigger";
    let text = std::str::from_utf8(body).map_err(|_| invalid("The form is not UTF-8.", hint))?;
    Params::from_query(Some(text.trim_end()))
}

fn from_json(body: &[u8], example: &str) -> Result<Params, Problem> {
    let JsonFields(fields) = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("The body is not a JSON object: {error}.");
        invalid(detail, format!("For example: {example}"))
    })?;
    let (mut params, mut seen) = (Params::default(), Params::default());
    for (name, value) in fields {
        let value = plain(&name, value)?;
        // A field that is as if left out counts too: given again, it is a contradiction.
        seen.add(name.clone(), String::new())?;
        if let Some(value) = value {
            params.add(name, value)?;
        }
    }
    Ok(params)
}

/// The fields of an object as they stand there, those too that come twice: a map would keep the
/// last of them and say nothing.
struct JsonFields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for JsonFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = JsonFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<JsonFields, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(JsonFields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A JSON value as it would stand in a query; `null` and `false` are as if left out.
fn plain(name: &str, value: Value) -> Result<Option<String>, Problem> {
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Bool(true) => Ok(Some(String::new())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::String(text) => Ok(Some(text)),
        Value::Array(_) | Value::Object(_) => {
            let detail = format!("The field {:?} is not plain text.", human::printable(name, 80));
            Err(invalid(detail, "Give each field one text, number or true."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(media_type: &'static str, body: &'static str) -> Result<Params, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, media_type.parse().unwrap());
        parse(&headers, &Bytes::from_static(body.as_bytes()), "{}")
            .map_err(|problem| problem.detail)
    }

    #[test]
    fn a_form_and_an_object_say_the_same() {
        let form = parsed("application/x-www-form-urlencoded", "id=client4&queue=90&fresh\n");
        let json = r#"{"id": "client4", "queue": 90, "fresh": true, "path": null, "wait": false}"#;
        assert_eq!(form, parsed("application/json; charset=utf-8", json));
        assert!(form.is_ok());
    }

    #[test]
    fn a_bad_body_is_told_what_is_wrong_with_it() {
        let check = |media_type, body, said: &str| {
            let error = parsed(media_type, body).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        };
        check("application/json", r#"{"path": ["a"]}"#, "The field \"path\" is not plain text.");
        check("application/json", "{\"id\": ", "The body is not a JSON object: EOF");
        check("application/json", "[1]", "The body is not a JSON object: invalid type");
        let twice = "The parameter \"id\" is given twice.";
        check("application/json", r#"{"id": "a", "id": "b"}"#, twice);
        check("application/json", r#"{"id": null, "id": "b"}"#, twice);
        check("application/x-www-form-urlencoded", "{\"id\": 1}", "The body is neither a form");
        check("text/plain", "id=client4", "The body is neither a form");
        assert_eq!(parsed("text/plain", ""), Ok(Params::default()));
    }
}
