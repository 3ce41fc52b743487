//! The requests to the page of a server: a visit, and a form that the page sends.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};

use super::person::admit;
use super::server_page::ServerPage;
use crate::core::decide::access::Action;
use crate::core::failure::Failure;
use crate::http::extract::path::ServerNamePath;
use crate::http::respond::html::{HtmlError, failure_page, page_path};
use crate::http::respond::notice::CONNECT_PATH;
use crate::http::signin::form::FormFields;
use crate::http::state::ApiState;

/// The page of the server that the path names, for the person of the request. The extractor refuses a request for a server
/// that the person may not use before it reads the form.
impl FromRequestParts<Arc<ApiState>> for ServerPage {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<ApiState>,
    ) -> Result<Self, Response> {
        let name = ServerNamePath::from_request_parts(parts, state).await;
        let next = match &name {
            Ok(ServerNamePath(name)) => format!("{CONNECT_PATH}/{name}"),
            Err(_) => CONNECT_PATH.to_owned(),
        };
        let person = admit(state, parts, &next).map_err(|refusal| *refusal)?;
        let server = match name {
            Ok(ServerNamePath(name)) => {
                state.find_server_for(person.caller(), Action::ManageSecrets, &name)
            }
            Err(_) => Err(Failure::server_not_found("of that name")),
        };
        let server = server.map_err(|failure| {
            let list = page_path(state, CONNECT_PATH);
            failure_page(failure, Some((&list, "Your connections")))
        })?;
        Ok(Self {
            state: state.clone(),
            headers: parts.headers.clone(),
            person,
            server,
        })
    }
}

/// A form that this browser got from the page of a server, in this session.
pub(crate) struct ServerForm {
    pub(super) page: ServerPage,
    pub(super) fields: FormFields,
}

impl FromRequest<Arc<ApiState>> for ServerForm {
    type Rejection = Response;

    async fn from_request(request: Request, state: &Arc<ApiState>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let page = ServerPage::from_request_parts(&mut parts, state).await?;
        let fields = FormFields::from_request(Request::from_parts(parts, body), state)
            .await
            .map_err(HtmlError::into_response)?;
        fields
            .check(state, &page.headers, page.person.session())
            .map_err(|failure| HtmlError(failure).into_response())?;
        Ok(Self { page, fields })
    }
}
