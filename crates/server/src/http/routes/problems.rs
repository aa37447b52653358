//! `/problems`: the catalogue of problem codes.

use axum::Extension;
use axum::response::Response;
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use serde::Serialize;

use crate::http::request::caller::Caller;
use crate::http::request::extract::TextParam;
use crate::http::request::params::NoParams;
use crate::http::request::rejection::Rejection;
use crate::http::request::suggest::did_you_mean;
use crate::http::response;
use crate::http::response::text::table;

/// The JSON object of a problem code.
#[derive(Debug, Serialize)]
struct CodeJson {
    code: Code,
    title: &'static str,
    status: u16,
    exit_code: u8,
    hint: &'static str,
}

impl From<Code> for CodeJson {
    fn from(code: Code) -> Self {
        Self {
            code,
            title: code.title(),
            status: code.status(),
            exit_code: code.exit(),
            hint: code.next(),
        }
    }
}

#[derive(Debug, Serialize)]
struct CatalogueJson {
    items: Vec<CodeJson>,
}

/// Handles `/problems` in text and JSON.
pub(crate) async fn list(Extension(caller): Extension<Caller>, _: NoParams) -> Response {
    let items = || Code::ALL.iter().copied().map(CodeJson::from).collect();
    response::text_or_json(&caller, catalogue, || CatalogueJson { items: items() })
}

/// Handles `/problems/CODE` in text and JSON.
pub(crate) async fn show(
    Extension(caller): Extension<Caller>,
    _: NoParams,
    TextParam(name): TextParam,
) -> Result<Response, Rejection> {
    let found = Code::ALL.iter().copied().find(|code| code.as_str() == name);
    let Some(code) = found else { return Err(unknown(&name).into()) };
    Ok(response::text_or_json(&caller, || code_text(code, &caller.host), || CodeJson::from(code)))
}

fn catalogue() -> String {
    let header = ["CODE", "STATUS", "EXIT", "MEANS"].map(str::to_owned);
    let row = |code: &Code| {
        let status = code.status().to_string();
        let exit = code.exit().to_string();
        [code.to_string(), status, exit, code.title().to_owned()]
    };
    table(&std::iter::once(header).chain(Code::ALL.iter().map(row)).collect::<Vec<_>>())
}

fn code_text(code: Code, host: &str) -> String {
    let title = code.title();
    let status = code.status();
    let exit = code.exit();
    let next = code.next().replace("localhost:8080", host);
    format!("{code}: {title}.\n{next}\n\nHTTP status  {status}\nexit code    {exit}\n")
}

fn unknown(name: &str) -> Problem {
    let meant = did_you_mean(name, Code::ALL.iter().map(|code| code.as_str()));
    let detail = format!("There is no problem called {:?}.{meant}", human::printable(name, 80));
    Problem::new(Code::NoSuchUrl, detail).hint("list them: curl localhost:8080/problems")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_catalogue_and_has_a_page() {
        let catalogue = catalogue();
        for &code in Code::ALL {
            assert!(catalogue.lines().any(|line| line.starts_with(code.as_str())), "{code}");
            assert!(code_text(code, "pull:1").contains(code.title()));
            assert!(!code_text(code, "pull:1").contains("localhost:8080"), "{code}");
        }
    }

    #[test]
    fn an_unknown_code_is_answered_with_a_suggestion() {
        let detail = unknown("client-ofline").detail;
        assert!(detail.ends_with("Did you mean client-offline?"), "{detail}");
    }
}
