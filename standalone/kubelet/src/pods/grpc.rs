//! `grpc` probes: one call of the health service that gRPC servers have (grpc.health.v1), without TLS as
//! upstream's.

use k8s_openapi::api::core::v1::GRPCAction;
use tonic::{
    Code,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

use super::hooks::{Outcome, Target, authority};

/// `HealthCheckResponse.ServingStatus`.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The caller bounds its time.
pub async fn grpc(target: &Target, action: &GRPCAction) -> Outcome {
    let Some(port) = u16::try_from(action.port).ok().filter(|port| *port > 0) else {
        return Outcome::Errored(format!("invalid port number: {}", action.port));
    };
    let Some(host) = &target.pod_ip else {
        return Outcome::Errored("the pod has no address yet".to_owned());
    };
    let address = authority(host, port);
    let channel = match connect(&address).await {
        Ok(channel) => channel,
        Err(error) => {
            let text = skerry_vocabulary::chain(&error);
            return Outcome::Failed(format!("error: failed to connect service at {address:?}: {text}"));
        }
    };
    match check(channel, action.service.clone().unwrap_or_default()).await {
        Ok(SERVING) => Outcome::Passed,
        Ok(status) => {
            let name = usize::try_from(status).ok().and_then(|at| STATUSES.get(at)).copied();
            let name = name.map_or_else(|| status.to_string(), str::to_owned);
            Outcome::Failed(format!("service unhealthy (responded with {name:?})"))
        }
        Err(status) if status.code() == Code::Unimplemented => Outcome::Failed(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Err(status) => Outcome::Failed(format!(
            "error: health rpc probe failed: rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )),
    }
}

async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?.user_agent("kube-probe/1.36")?.connect().await
}

async fn check(channel: Channel, service: String) -> Result<i32, tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = grpc.unary(tonic::Request::new(HealthCheckRequest { service }), path, codec).await?;
    Ok(answer.into_inner().status)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::{body::Frame, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    /// A health service: `a` serves, `b` does not, of others it knows nothing.
    async fn serve() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = |request: http::Request<hyper::body::Incoming>| async move {
            let asked = request.into_body().collect().await?.to_bytes();
            // Five bytes of gRPC, a tag and a length; then the service's name.
            let status = match asked.get(7..) {
                Some(b"a") => Some(1),
                Some(b"b") => Some(2),
                _ => None,
            };
            let data = status.map(|status| Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]));
            let mut trailers = http::HeaderMap::new();
            let code = if status.is_some() { "0" } else { "12" };
            trailers.insert("grpc-status", code.parse().unwrap());
            let frames = data.map(Frame::data).into_iter().chain([Frame::trailers(trailers)]);
            let frames = frames.map(Ok::<_, std::convert::Infallible>);
            let body = StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>()));
            let answer = http::Response::builder().header("content-type", "application/grpc").body(body);
            Ok::<_, hyper::Error>(answer.unwrap())
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        port
    }

    #[tokio::test]
    async fn a_grpc_probe_passes_only_where_the_service_says_that_it_serves() {
        let target = Target {
            container_id: String::new(),
            container: serde_json::from_value(json!({"name": "c"})).unwrap(),
            pod_ip: Some("127.0.0.1".to_owned()),
        };
        let port = serve().await;
        let ask = async |service: &str| {
            let action = serde_json::from_value(json!({"port": port, "service": service})).unwrap();
            grpc(&target, &action).await
        };
        assert_eq!(ask("a").await, Outcome::Passed);
        let unhealthy = "service unhealthy (responded with \"NOT_SERVING\")".to_owned();
        assert_eq!(ask("b").await, Outcome::Failed(unhealthy));
        let Outcome::Failed(text) = ask("c").await else { panic!("passed") };
        assert!(text.contains("does not implement the grpc health protocol"), "{text}");
        let closed = GRPCAction { port: 1, service: None };
        let Outcome::Failed(text) = grpc(&target, &closed).await else { panic!("passed") };
        assert!(text.starts_with("error: failed to connect service at \"127.0.0.1:1\""), "{text}");
    }
}
