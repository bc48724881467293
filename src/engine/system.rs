//! Endpoints of the control plane itself. They are declared like those of a backend and served by the
//! same pipeline; [`crate::api`] holds them, one file per resource.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daypass_contract::route::{Endpoint, Routes};
use daypass_contract::{BoxFuture, Operation, Peer, Secret};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::answer::{Answer, Failure};
use super::plane::{ControlPlane, Engine};
use crate::identity::Principal;

/// One authorized request to the control plane.
pub struct SystemCall {
    /// The process.
    pub plane: Arc<ControlPlane>,
    /// The token presented, for endpoints that answer with it.
    pub token: Option<Secret>,
    /// Who asks; none where anyone may.
    pub principal: Option<Principal>,
    /// What is asked.
    pub operation: Operation,
    /// Path parameters, query and body.
    pub body: daypass_contract::Body,
    /// For how long the answer will be wrapped, where at all.
    pub wrap_ttl: Option<Duration>,
    /// When it arrived.
    pub now: SystemTime,
    /// Over which connection it came.
    pub peer: Peer,
}

impl SystemCall {
    /// What exists while unsealed.
    pub fn engine(&self) -> Result<Arc<Engine>, Failure> {
        self.plane.engine()
    }

    /// Who asks, on an endpoint that policy guards.
    pub fn principal(&self) -> Result<&Principal, Failure> {
        self.principal.as_ref().ok_or(Failure::Denied)
    }
}

/// What serves a system endpoint.
pub type SystemHandler =
    Box<dyn Fn(SystemCall) -> BoxFuture<'static, Result<Answer, Failure>> + Send + Sync>;

/// The table of system endpoints; patterns are full paths below `/v1/`.
pub type SystemRoutes = Routes<SystemHandler>;

/// Declares system endpoints with typed requests.
pub trait Serve {
    /// Declares an endpoint. `Response` is the type of the answer's `data`, for OpenAPI.
    fn serve<Request, Response, F, Fut>(
        &mut self,
        operation: Operation,
        pattern: &'static str,
        summary: &'static str,
        handler: F,
    ) -> &mut Endpoint<SystemHandler>
    where
        Request: DeserializeOwned + JsonSchema,
        Response: JsonSchema,
        F: Fn(SystemCall, Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Failure>> + Send + 'static;
}

impl Serve for SystemRoutes {
    fn serve<Request, Response, F, Fut>(
        &mut self,
        operation: Operation,
        pattern: &'static str,
        summary: &'static str,
        handler: F,
    ) -> &mut Endpoint<SystemHandler>
    where
        Request: DeserializeOwned + JsonSchema,
        Response: JsonSchema,
        F: Fn(SystemCall, Request) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Failure>> + Send + 'static,
    {
        let run = move |call: SystemCall| -> BoxFuture<'static, Result<Answer, Failure>> {
            match call.body.decode::<Request>() {
                Ok(request) => Box::pin(handler(call, request)),
                Err(error) => {
                    Box::pin(std::future::ready(Err(Failure::Invalid(error.to_string()))))
                }
            }
        };
        self.add::<Request, Response>(operation, pattern, summary, Box::new(run))
    }
}
