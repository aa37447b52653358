//! Counts the streams of each connection, so that a connection without streams can be closed.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::incoming::ConnectionInfo;
use crate::guarded_body::GuardedBody;

/// Keeps a connection in use from the head of each request until its response has been sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountStreams;

impl<S> Layer<S> for CountStreams {
    type Service = CountedStream<S>;

    fn layer(&self, inner: S) -> CountedStream<S> {
        CountedStream(inner)
    }
}

/// A service whose streams are counted.
#[derive(Clone, Debug)]
pub(crate) struct CountedStream<S>(S);

impl<S> Service<Request<Body>> for CountedStream<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let in_use = request.extensions().get::<ConnectionInfo>().map(|connection| {
            // The head of the request has been consumed.
            connection.read_budget.renew();
            connection.permit.begin()
        });
        let responded = self.0.call(request);
        let guarded = |body| Body::new(GuardedBody::new(body, in_use));
        responded.map(|response| response.map(|response| response.map(guarded))).boxed()
    }
}
