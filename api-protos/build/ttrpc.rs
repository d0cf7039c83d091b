//! Writes a service's ttrpc client, its trait, and the server side that calls it.

use prost_build::{Method, Service};

/// Appends module `<service>_ttrpc` to the code of the service's package.
pub fn generate(service: &Service, buf: &mut String) {
    let name = &service.name;
    let full = format!("{}.{}", service.package, service.proto_name);
    let module = name.to_lowercase();
    let collect =
        |each: fn(&Method) -> String| service.methods.iter().map(each).collect::<String>();
    let signatures = collect(signature);
    let client = collect(client_method);
    let calls = collect(call_arm);
    let streams = collect(stream_arm);
    let stream_names = service
        .methods
        .iter()
        .filter(|method| is_stream(method))
        .map(|method| format!("{:?} => true,\n", method.proto_name))
        .collect::<String>();
    buf.push_str(&format!(
        r#"
/// `{full}` over ttrpc.
#[allow(unused_imports, unused_variables)]
pub mod {module}_ttrpc {{
    use crate::status;
    use corten_ttrpc::{{Client, Context, RawStream, Reply, Stream}};
    use prost::Message as _;
    use std::future::Future;
    use std::sync::Arc;

    /// The service's full name.
    pub const NAME: &str = "{full}";

    /// Calls the service.
    #[derive(Clone, Debug)]
    pub struct {name}Client {{
        client: Client,
        service: &'static str,
    }}

    impl {name}Client {{
        /// Returns a client that calls over `client`.
        pub fn new(client: Client) -> Self {{
            Self::named(client, NAME)
        }}

        /// Returns a client that calls the service under another name: another version with the same messages.
        pub fn named(client: Client, service: &'static str) -> Self {{
            Self {{ client, service }}
        }}

        /// Returns the connection.
        pub fn connection(&self) -> &Client {{
            &self.client
        }}
{client}
    }}

    /// What a server of the service does. A call's future is dropped when its caller goes away.
    pub trait {name}: Send + Sync + 'static {{
{signatures}
    }}

    /// The service as a ttrpc server takes it.
    pub struct {name}Server<T> {{
        inner: Arc<T>,
        name: &'static str,
    }}

    impl<T: {name}> {name}Server<T> {{
        /// Returns `inner` as a service.
        pub fn new(inner: Arc<T>) -> Self {{
            Self::named(inner, NAME)
        }}

        /// Returns `inner` under another name: another version with the same messages.
        pub fn named(inner: Arc<T>, name: &'static str) -> Self {{
            Self {{ inner, name }}
        }}
    }}

    impl<T: {name}> corten_ttrpc::Service for {name}Server<T> {{
        fn name(&self) -> &str {{
            self.name
        }}

        fn call(&self, context: Context, method: &str, payload: ::prost::bytes::Bytes) -> Option<Reply<Vec<u8>>> {{
            let inner = self.inner.clone();
            match method {{
{calls}
                _ => None,
            }}
        }}

        fn is_stream(&self, method: &str) -> bool {{
            match method {{
{stream_names}
                _ => false,
            }}
        }}

        fn stream(&self, context: Context, method: &str, stream: RawStream) -> Option<Reply<()>> {{
            let inner = self.inner.clone();
            match method {{
{streams}
                _ => None,
            }}
        }}
    }}
}}
"#
    ));
}

fn is_stream(method: &Method) -> bool {
    assert_eq!(
        method.client_streaming, method.server_streaming,
        "{}: only unary methods and streams both ways are generated",
        method.proto_name
    );
    method.client_streaming
}

fn signature(method: &Method) -> String {
    let (name, input, output) = names(method);
    if is_stream(method) {
        format!(
            "fn {name}(&self, context: Context, stream: Stream<{output}, {input}>) \
             -> impl Future<Output = sys::Result<()>> + Send;\n"
        )
    } else {
        format!(
            "fn {name}(&self, context: Context, request: {input}) \
             -> impl Future<Output = sys::Result<{output}>> + Send;\n"
        )
    }
}

fn client_method(method: &Method) -> String {
    let (name, input, output) = names(method);
    let proto = &method.proto_name;
    if is_stream(method) {
        format!(
            r#"
        pub fn {name}(&self, context: &Context) -> sys::Result<Stream<{input}, {output}>> {{
            let raw = self.client.stream(context, self.service, "{proto}").map_err(status::from_ttrpc)?;
            Ok(Stream::new(raw))
        }}
"#
        )
    } else {
        format!(
            r#"
        pub async fn {name}(&self, context: &Context, request: &{input}) -> sys::Result<{output}> {{
            let answer = self.client.call(context, self.service, "{proto}", request.encode_to_vec()).await;
            status::decode_answer(answer)
        }}
"#
        )
    }
}

fn call_arm(method: &Method) -> String {
    if is_stream(method) {
        return String::new();
    }
    let name = &method.name;
    let proto = &method.proto_name;
    format!(
        r#"
                "{proto}" => Some(Box::pin(async move {{
                    let request = status::decode_request(payload)?;
                    let answer = inner.{name}(context, request).await;
                    answer.map(|answer| answer.encode_to_vec()).map_err(|error| status::ttrpc(&error))
                }})),
"#
    )
}

fn stream_arm(method: &Method) -> String {
    if !is_stream(method) {
        return String::new();
    }
    let name = &method.name;
    let proto = &method.proto_name;
    format!(
        r#"
                "{proto}" => Some(Box::pin(async move {{
                    inner.{name}(context, Stream::new(stream)).await.map_err(|error| status::ttrpc(&error))
                }})),
"#
    )
}

/// Returns the method's name and its types as they are called inside the generated module.
fn names(method: &Method) -> (&str, String, String) {
    let inside = |path: &str| match path {
        "()" => path.to_owned(),
        _ if path.starts_with("::") => path.to_owned(),
        _ => format!("super::{path}"),
    };
    (
        &method.name,
        inside(&method.input_type),
        inside(&method.output_type),
    )
}
