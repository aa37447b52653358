//! `/problems`: the error catalogue, served by the server that refers to it.

use axum::Extension;
use axum::response::Response;
use filepull_core::human;
use filepull_core::problem::{Code, Problem};
use serde::Serialize;

use crate::http::request::caller::Caller;
use crate::http::request::extract::TextIn;
use crate::http::request::params::NoParams;
use crate::http::request::rejection::Rejection;
use crate::http::request::suggest::nearest;
use crate::http::response;
use crate::http::response::text::table;

/// One kind of problem, as its page shows it.
#[derive(Debug, Serialize)]
struct KindJson {
    code: Code,
    title: &'static str,
    status: u16,
    exit_code: u8,
    hint: &'static str,
}

impl From<Code> for KindJson {
    fn from(code: Code) -> Self {
        let (title, hint) = (code.title(), code.next());
        Self { code, title, status: code.status(), exit_code: code.exit(), hint }
    }
}

#[derive(Debug, Serialize)]
struct CatalogueJson {
    items: Vec<KindJson>,
}

/// `/problems`
pub(crate) async fn list(Extension(caller): Extension<Caller>, _: NoParams) -> Response {
    let items = || Code::ALL.iter().copied().map(KindJson::from).collect();
    response::text_or_json(&caller, catalogue, || CatalogueJson { items: items() })
}

/// `/problems/CODE`
pub(crate) async fn show(
    Extension(caller): Extension<Caller>,
    _: NoParams,
    TextIn(name): TextIn,
) -> Result<Response, Rejection> {
    let known = Code::ALL.iter().copied().find(|code| code.as_str() == name);
    let Some(code) = known else { return Err(unknown(&name).into()) };
    Ok(response::text_or_json(&caller, || one(code, &caller.host), || KindJson::from(code)))
}

fn catalogue() -> String {
    let header = ["CODE", "STATUS", "EXIT", "MEANS"].map(str::to_owned);
    let row = |code: &Code| {
        let (status, exit) = (code.status().to_string(), code.exit().to_string());
        [code.to_string(), status, exit, code.title().to_owned()]
    };
    table(&std::iter::once(header).chain(Code::ALL.iter().map(row)).collect::<Vec<_>>())
}

fn one(code: Code, host: &str) -> String {
    let (title, status, exit) = (code.title(), code.status(), code.exit());
    let next = code.next().replace("localhost:8080", host);
    format!("{code}: {title}.\n{next}\n\nHTTP status  {status}\nexit code    {exit}\n")
}

fn unknown(name: &str) -> Problem {
    let meant = nearest(name, Code::ALL.iter().map(|code| code.as_str()));
    let meant = meant.map(|meant| format!(" Did you mean {meant}?")).unwrap_or_default();
    let detail = format!("There is no problem called {:?}.{meant}", human::printable(name, 80));
    Problem::new(Code::NoSuchUrl, detail).hint("list them: curl localhost:8080/problems")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_line_and_a_page() {
        let catalogue = catalogue();
        for &code in Code::ALL {
            assert!(catalogue.lines().any(|line| line.starts_with(code.as_str())), "{code}");
            assert!(one(code, "pull:1").contains(code.title()));
            assert!(!one(code, "pull:1").contains("localhost:8080"), "{code}");
        }
    }

    #[test]
    fn a_slip_is_corrected() {
        let said = unknown("client-ofline").detail;
        assert!(said.ends_with("Did you mean client-offline?"), "{said}");
    }
}
