//! The messages of OTLP: a request of each signal, and what its answer says.

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as SpanMessage, Status, span, status,
};
use prost::Message as _;

use super::client::Signal;
use crate::telemetry::traces::{Span, Value};
use crate::version;

/// Who sends: the attributes of everything that this process sends.
pub(super) fn resource(instance: &str) -> Resource {
    Resource {
        attributes: vec![
            text("service.name", NAME),
            text("service.version", version::VERSION),
            text("service.instance.id", instance),
        ],
        ..Resource::default()
    }
}

/// The name of the service, and of the scope of its metrics and spans.
const NAME: &str = "lemonade-task";

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: NAME.to_owned(),
        version: version::VERSION.to_owned(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn of_metrics(resource: &Resource, metrics: Vec<Metric>) -> Vec<u8> {
    let scope_metrics = vec![ScopeMetrics {
        scope: Some(scope()),
        metrics,
        schema_url: String::new(),
    }];
    let resource_metrics = vec![ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics,
        schema_url: String::new(),
    }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

pub(super) fn of_spans(resource: &Resource, spans: &[Span]) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans {
        scope: Some(scope()),
        spans: spans.iter().map(of_span).collect(),
        schema_url: String::new(),
    }];
    let resource_spans = vec![ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans,
        schema_url: String::new(),
    }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

fn of_span(of: &Span) -> SpanMessage {
    let id = |id: u64| id.to_be_bytes().to_vec();
    let attributes = of.attributes.iter().map(|(name, value)| match value {
        Value::Text(value) => text(name, value),
        Value::Number(value) => {
            let value = i64::try_from(*value).unwrap_or(i64::MAX);
            with_value(name, any_value::Value::IntValue(value))
        }
    });
    let links = of.links.iter().map(|(trace, span)| span::Link {
        trace_id: trace.to_vec(),
        span_id: id(*span),
        ..span::Link::default()
    });
    SpanMessage {
        trace_id: of.trace.to_vec(),
        span_id: id(of.id),
        parent_span_id: of.parent.map_or_else(Vec::new, id),
        name: of.name.to_owned(),
        kind: span::SpanKind::Internal.into(),
        start_time_unix_nano: of.begin_unix_ns,
        end_time_unix_nano: of.end_unix_ns,
        attributes: attributes.collect(),
        links: links.collect(),
        status: of.error.as_ref().map(|error| Status {
            message: error.clone(),
            code: status::StatusCode::Error.into(),
        }),
        ..SpanMessage::default()
    }
}

/// How many points or spans of a request the receiver has refused, and why. `None` if it took all.
pub(super) fn refused(signal: Signal, answer: &[u8]) -> Option<(u64, String)> {
    let (refused, why) = match signal {
        Signal::Metrics => {
            let answer = ExportMetricsServiceResponse::decode(answer).ok()?;
            let partly = answer.partial_success?;
            (partly.rejected_data_points, partly.error_message)
        }
        Signal::Traces => {
            let answer = ExportTraceServiceResponse::decode(answer).ok()?;
            let partly = answer.partial_success?;
            (partly.rejected_spans, partly.error_message)
        }
    };
    (refused > 0).then(|| (refused.unsigned_abs(), why))
}

/// An attribute with a text.
pub(super) fn text(name: &str, value: &str) -> KeyValue {
    with_value(name, any_value::Value::StringValue(value.to_owned()))
}

fn with_value(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
