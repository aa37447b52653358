//! Reads the parameters of a request that may have a body: a form or a JSON object.

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

/// Maximum length of a body in bytes. A few parameters are some hundred bytes.
const MAX_LEN: usize = 64 * 1024;

/// How long a body may take, counted from the first read. It is a small form.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// The parameters of the query and of the body. A name must not occur in both.
#[derive(Debug)]
pub(crate) struct RequestParams(pub(crate) Params);

impl<S: Sync> FromRequest<S> for RequestParams {
    type Rejection = Rejection;

    async fn from_request(request: Request, _: &S) -> Result<Self, Rejection> {
        let (head, body) = request.into_parts();
        let mut params = Params::from_query(head.uri.query())?;
        let bytes = read(body).await?;
        params.merge(parse(&head.headers, &bytes, example(head.uri.path()))?)?;
        Ok(Self(params))
    }
}

/// Reads a body that must be JSON, of at most `max_len` bytes.
pub(crate) async fn read_json(request: Request, max_len: usize) -> Result<Bytes, Problem> {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        let detail = "The Content-Type of the body is not application/json.";
        return Err(invalid(detail, "Add: -H \"Content-Type: application/json\""));
    }
    read_up_to(request.into_body(), max_len).await
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    read_up_to(body, MAX_LEN).await
}

async fn read_up_to(body: Body, max_len: usize) -> Result<Bytes, Problem> {
    let hint = "Send the parameters as a form or as a JSON object.";
    match timeout(READ_LIMIT, Limited::new(body, max_len).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(invalid(format!("The body is larger than {} KiB.", max_len / 1024), hint))
        }
        Ok(Err(_)) => Err(invalid("The body ended too early.", hint)),
        Err(_) => Err(invalid("The body did not arrive within 10 s.", hint)),
    }
}

/// Returns a valid JSON body for the URL. The name of the client field depends on the URL.
fn example(path: &str) -> &'static str {
    match path.strip_prefix("/trigger") {
        Some("" | "/") => r#"{"id":"client4"}"#,
        Some(_) => r#"{"queue":"24h"}"#,
        None if path.ends_with("/cancel") => "{}",
        None if path.contains("/ca/") => r#"{"force":true}"#,
        None => r#"{"client":"client4"}"#,
    }
}

fn parse(headers: &HeaderMap, body: &Bytes, example: &str) -> Result<Params, Problem> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let looks_like_json = body.trim_ascii_start().starts_with(b"{");
    match media_type.trim().to_ascii_lowercase().as_str() {
        _ if body.is_empty() => Ok(Params::default()),
        "application/json" => from_json(body, example),
        // The default of `curl -d`, also for `curl -d '{…}'`.
        "application/x-www-form-urlencoded" if !looks_like_json => from_form(body),
        _ => {
            let detail = "The body is not a form, and its Content-Type is not application/json.";
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
    let mut params = Params::default();
    let mut seen = Params::default();
    // `if_changed` in JSON is `if-changed` in a URL.
    for (field, value) in fields {
        let name = field.replace('_', "-");
        let value = to_param(&name, value)?;
        // A field that counts as absent must not be repeated either.
        seen.add(name.clone(), String::new())?;
        if let Some(value) = value {
            params.add(name, value)?;
        }
    }
    Ok(params)
}

/// The fields of an object in their order, including repeated names. A map would silently keep only
/// the last field of a name.
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

/// Returns a JSON value as the text of a query parameter. `null` and `false` count as absent.
fn to_param(name: &str, value: Value) -> Result<Option<String>, Problem> {
    match value {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::Bool(true) => Ok(Some(String::new())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::String(text) => Ok(Some(text)),
        Value::Array(_) | Value::Object(_) => {
            let name = human::printable(name, 80);
            let detail = format!("The field {name:?} is an array or an object.");
            Err(invalid(detail, "A field is a text, a number, true, false or null."))
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

    #[tokio::test(start_paused = true)]
    async fn a_body_that_arrives_too_slowly_times_out() {
        let one_byte_per_second = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>("a"), ()))
        });
        let problem = read(Body::from_stream(one_byte_per_second)).await.unwrap_err();
        assert_eq!(problem.detail, "The body did not arrive within 10 s.");
    }

    #[test]
    fn a_form_and_a_json_object_give_the_same_parameters() {
        let form = parsed("application/x-www-form-urlencoded", "id=client4&queue=90&if-changed\n");
        let json =
            r#"{"id": "client4", "queue": 90, "if_changed": true, "path": null, "wait": false}"#;
        assert_eq!(form, parsed("application/json; charset=utf-8", json));
        assert!(form.is_ok());
    }

    #[test]
    fn a_bad_body_is_rejected_with_the_reason() {
        let check = |media_type, body, detail: &str| {
            let error = parsed(media_type, body).unwrap_err();
            assert!(error.starts_with(detail), "{error}");
        };
        check("application/json", r#"{"path": ["a"]}"#, "The field \"path\" is an array");
        check("application/json", "{\"id\": ", "The body is not a JSON object: EOF");
        check("application/json", "[1]", "The body is not a JSON object: invalid type");
        let twice = "The parameter \"id\" is given twice.";
        check("application/json", r#"{"id": "a", "id": "b"}"#, twice);
        check("application/json", r#"{"id": null, "id": "b"}"#, twice);
        check("application/x-www-form-urlencoded", "{\"id\": 1}", "The body is not a form");
        check("text/plain", "id=client4", "The body is not a form");
        assert_eq!(parsed("text/plain", ""), Ok(Params::default()));
    }
}
