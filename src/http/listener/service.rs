//! Passes the requests of one connection to the API, and counts them until their responses have
//! ended.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Method, Version};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;

use super::body_memory::BodyMemory;
use super::endless_body::{EndlessBody, Handover};
use super::slots::{ConnectionState, RequestGuard};
use crate::http::middleware::Api;
use crate::http::respond::endless::Endless;
use crate::http::respond::json::ApiError;

/// The service of one connection.
pub(super) struct ConnectionService {
    pub api: Api,
    pub bodies: Arc<BodyMemory>,
    pub connection: Arc<ConnectionState>,
    pub handover: Arc<Handover>,
}

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = CountedResponse;

    fn call(&self, request: Request<Incoming>) -> CountedResponse {
        let guard = self.connection.start_request();
        // Older clients know no chunks, and the answer to HEAD has no body.
        let takes_chunks =
            request.version() == Version::HTTP_11 && request.method() != Method::HEAD;
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
            handover: takes_chunks.then(|| self.handover.clone()),
        }
    }
}

/// The response of a request that is counted as running.
pub(super) struct CountedResponse {
    response: BoxFuture<'static, Response>,
    guard: Option<RequestGuard>,
    /// Takes an endless body.
    handover: Option<Arc<Handover>>,
}

impl Future for CountedResponse {
    type Output = Result<Response<CountedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(self.response.as_mut().poll(cx));
        let is_endless = response.extensions_mut().remove::<Endless>().is_some();
        let handover = self.handover.take().filter(|_| is_endless);
        let guard = self.guard.take();
        Poll::Ready(Ok(match (handover, guard) {
            (Some(handover), Some(guard)) => leave_parser(response, &handover, guard),
            (_, guard) => response.map(|body| CountedBody {
                body: Some(body),
                _guard: guard,
            }),
        }))
    }
}

/// Returns the head of a response for the parser. The connection sends the body after the head, and then it closes.
fn leave_parser(
    mut response: Response,
    handover: &Handover,
    guard: RequestGuard,
) -> Response<CountedBody> {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response.map(|body| {
        handover.put(EndlessBody {
            body,
            _guard: guard,
        });
        CountedBody {
            body: None,
            _guard: None,
        }
    })
}

/// A response body whose request counts as running until the body is dropped.
pub(super) struct CountedBody {
    /// `None` if the connection sends the body.
    body: Option<Body>,
    _guard: Option<RequestGuard>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.body
            .as_mut()
            .map_or(Poll::Pending, |body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_default()
    }
}
