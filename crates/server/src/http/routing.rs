//! The routes, each with its access rule. This is the only place that adds a handler to the router,
//! so a route without a rule does not compile.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter};

use super::{App, middleware};
use crate::access::Role;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every caller, signed in or not. The response must not depend on clients or transfers.
    Public,
    /// Callers with this role or a more powerful one. The handler checks the scope of the caller for
    /// each client that it reads or changes.
    Needs(Role),
    /// Callers with this role or a more powerful one, who may see every client: what the route reads
    /// or changes concerns all of them.
    NeedsAll(Role),
}

/// The access rules, as a table of routes reads best.
pub(crate) const PUBLIC: Access = Access::Public;
pub(crate) const VIEWER: Access = Access::Needs(Role::Viewer);
pub(crate) const OPERATOR: Access = Access::Needs(Role::Operator);
pub(crate) const ADMIN: Access = Access::NeedsAll(Role::Admin);

/// A route and its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// The method, such as `GET`, which also answers HEAD unless HEAD has a rule of its own.
    pub method: Method,
    /// The path, with `{id}` for a part that varies.
    pub path: String,
    /// Who may use it.
    pub access: Access,
}

/// The routes of the server.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    router: Router<App>,
    rules: Vec<RouteRule>,
}

impl Routes {
    /// Adds a route. `authorize` runs before the handler and before the body is read.
    pub(crate) fn add<H, T>(
        mut self,
        method: Method,
        path: &str,
        access: Access,
        handler: H,
    ) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("a standard method");
        let guard = from_fn_with_state(access, middleware::authorize);
        let route = MethodRouter::new().on(filter, handler).route_layer(guard);
        self.rules.push(RouteRule { method, path: path.to_owned(), access });
        self.router = self.router.route(path, route);
        self
    }

    /// Rejects HEAD, and every method that the path does not have, with `handler`. Without it a GET
    /// route would answer HEAD.
    pub(crate) fn reject_others<H, T>(mut self, path: &str, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let others = MethodRouter::new().on(MethodFilter::HEAD, handler.clone()).fallback(handler);
        self.router = self.router.route(path, others);
        self
    }

    /// Returns the rule of each route.
    pub(crate) fn rules(&self) -> &[RouteRule] {
        &self.rules
    }

    /// Returns the router, for the middleware that every request passes.
    pub(crate) fn into_router(self) -> Router<App> {
        self.router
    }
}
