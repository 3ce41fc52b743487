//! Passes the requests of one connection to the API, and counts them until their responses have
//! ended.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;

use super::body_memory::BodyMemory;
use super::slots::{ConnectionState, RequestGuard};
use crate::http::middleware::Api;
use crate::http::respond::json::ApiError;

/// The service of one connection.
pub(super) struct ConnectionService {
    pub api: Api,
    pub bodies: Arc<BodyMemory>,
    pub connection: Arc<ConnectionState>,
}

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = CountedResponse;

    fn call(&self, request: Request<Incoming>) -> CountedResponse {
        let guard = self.connection.start_request();
        let request = request.map(Body::new);
        let response = match self.bodies.bytes_to_reserve(request.headers()) {
            None => self.api.answer(request),
            Some(bytes) => {
                let (api, bodies) = (self.api.clone(), self.bodies.clone());
                Box::pin(async move {
                    let _memory = match bodies.reserve(bytes).await {
                        Ok(memory) => memory,
                        Err(failure) => return ApiError(failure).into_response(),
                    };
                    api.answer(request).await
                })
            }
        };
        CountedResponse {
            response,
            guard: Some(guard),
        }
    }
}

/// The response of a request that is counted as running.
pub(super) struct CountedResponse {
    response: BoxFuture<'static, Response>,
    guard: Option<RequestGuard>,
}

impl Future for CountedResponse {
    type Output = Result<Response<CountedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.response.as_mut().poll(cx));
        let guard = self.guard.take();
        Poll::Ready(Ok(response.map(|body| CountedBody {
            body,
            _guard: guard,
        })))
    }
}

/// A response body whose request counts as running until the body is dropped.
pub(super) struct CountedBody {
    body: Body,
    _guard: Option<RequestGuard>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
