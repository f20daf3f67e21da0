//! What a DNS message gets for an answer. Pure: bytes in, bytes or a question out.

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Longest query: header, one name, and the options that stub resolvers send.
pub(crate) const MAX_QUERY: usize = 1232;
/// Largest answer over UDP, whatever the client says (it fits every path).
const MAX_UDP_ANSWER: u16 = 1232;
/// Most records in an answer.
const MAX_RECORDS: usize = 64;
const HEADER: usize = 12;
/// RFC 8914 option code.
const EXTENDED_ERROR: u16 = 15;
/// RFC 8914 info codes.
const BLOCKED: u16 = 15;
const NO_REACHABLE_AUTHORITY: u16 = 22;

/// What is to be done with a message, and whether to report it.
#[derive(Debug)]
pub struct Decision {
    /// What the client gets.
    pub answer: Answer,
    /// Set when a well-formed query was refused by policy.
    pub refused: Option<Refused>,
}

/// What the client gets.
#[derive(Debug)]
pub enum Answer {
    /// Nothing: the message was no query.
    Ignore,
    /// These bytes, at once.
    Respond(Vec<u8>),
    /// Whatever the name resolves to: [`Question::answer`].
    Resolve(Question),
}

/// A query that policy refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The name asked for, lower case, at most 1,004 characters (each octet escaped).
    pub name: String,
    /// The record type asked for, such as `TXT`.
    pub record_type: String,
    /// Why.
    pub reason: Reason,
}

/// Why a query was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The catalog leads to no such name.
    NotInCatalog,
    /// The record type carries more than an address.
    RecordType,
}

impl Reason {
    /// A stable code for records and metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NotInCatalog => "name-not-in-catalog",
            Self::RecordType => "record-type-refused",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotInCatalog => {
                "writ: the catalog of this agent leads to no such name; ask the platform team to add the destination"
            }
            Self::RecordType => "writ: only address records are answered",
        }
    }
}

/// The address families that answers may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 and IPv6.
    Both,
    /// IPv4; IPv6 is dropped in this pod, so its addresses would only cost time.
    V4Only,
}

/// The record types that are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The canonical name.
    Cname,
}

impl Kind {
    pub(crate) fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Cname => RecordType::CNAME,
        }
    }
}

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// At most 1,232 octets or what the client takes, else truncated.
    Udp,
    /// At most 64 KiB.
    Tcp,
}

/// A query for an address of a permitted name.
#[derive(Debug)]
pub struct Question {
    reply: Reply,
    name: String,
    kind: Kind,
}

/// What resolution brought.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Records; those that are no address or canonical name are left out.
    Records(Vec<Record>),
    /// The name exists without such records.
    NoData,
    /// The name does not exist.
    NoSuchName,
    /// No name server could tell.
    Failed,
    /// Too much is going on.
    Busy,
}

impl Question {
    /// The name, lower case, without the final dot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The record type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The answer's bytes; none if it cannot be encoded.
    #[must_use]
    pub fn answer(&self, outcome: Outcome, transport: Transport) -> Option<Vec<u8>> {
        let mut message = match outcome {
            Outcome::Records(records) => {
                let mut message = self.reply.message(ResponseCode::NoError, None);
                message.add_answers(records.into_iter().filter(answerable).take(MAX_RECORDS));
                message
            }
            Outcome::NoData => self.reply.message(ResponseCode::NoError, None),
            Outcome::NoSuchName => self.reply.message(ResponseCode::NXDomain, None),
            Outcome::Failed => self.reply.message(
                ResponseCode::ServFail,
                Some((
                    NO_REACHABLE_AUTHORITY,
                    "writ: no name server of the pod answered",
                )),
            ),
            Outcome::Busy => self.reply.message(
                ResponseCode::Refused,
                Some((BLOCKED, "writ: too many queries, try again later")),
            ),
        };
        let limit = match transport {
            Transport::Udp => usize::from(self.reply.payload),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let mut bytes = message.to_vec().ok()?;
        if bytes.len() > limit {
            message = message.truncate();
            bytes = message.to_vec().ok()?;
        }
        Some(bytes)
    }
}

fn answerable(record: &Record) -> bool {
    matches!(record.data, RData::A(_) | RData::AAAA(_) | RData::CNAME(_))
        && record.dns_class == DNSClass::IN
}

/// The parts of a query that its answer repeats.
#[derive(Debug)]
struct Reply {
    request: Metadata,
    query: Query,
    /// Octets that the client takes over UDP.
    payload: u16,
    edns: Option<Edns>,
}

impl Reply {
    fn message(&self, code: ResponseCode, extended: Option<(u16, &str)>) -> Message {
        let mut message = header(&self.request, code);
        message.add_query(self.query.clone());
        if self.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_version(0).set_max_payload(MAX_UDP_ANSWER);
            if let Some((info, text)) = extended {
                let mut data = info.to_be_bytes().to_vec();
                data.extend_from_slice(text.as_bytes());
                edns.options_mut()
                    .insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
            }
            message.set_edns(edns);
        }
        message
    }

    fn respond(&self, code: ResponseCode, extended: Option<(u16, &str)>) -> Answer {
        self.message(code, extended)
            .to_vec()
            .map_or(Answer::Ignore, Answer::Respond)
    }
}

fn header(request: &Metadata, code: ResponseCode) -> Message {
    let mut message = Message::response(request.id, request.op_code);
    message.metadata.recursion_desired = request.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = request.checking_disabled;
    message.metadata.response_code = code;
    message
}

/// Decides on one message. `allowed` is asked with the name in lower case, in ASCII form, without
/// the final dot: whether the catalog can lead to it.
///
/// - No DNS header, or itself a response: ignored.
/// - Malformed, more than one question, or longer than 1,232 octets: FORMERR.
/// - Another operation than a query: NOTIMP. Another class than IN: REFUSED.
/// - A name that is not allowed: NXDOMAIN with extended error 15 (Blocked).
/// - An allowed name: A, AAAA and CNAME are resolved; HTTPS and SVCB have no data, so that no
///   encrypted ClientHello is configured through them; any other type is REFUSED, since only
///   address records are needed and the others carry data of the name's owner.
#[must_use]
pub fn decide(message: &[u8], families: Families, allowed: impl Fn(&str) -> bool) -> Decision {
    let quietly = |answer| Decision {
        answer,
        refused: None,
    };
    let Some(&[id0, id1, flags, ..]) = message.get(..HEADER) else {
        return quietly(Answer::Ignore);
    };
    if flags & 0x80 != 0 {
        return quietly(Answer::Ignore);
    }
    let id = u16::from_be_bytes([id0, id1]);
    let error = |code| {
        let answer = Message::error_msg(id, OpCode::Query, code).to_vec();
        quietly(answer.map_or(Answer::Ignore, Answer::Respond))
    };
    if message.len() > MAX_QUERY {
        return error(ResponseCode::FormErr);
    }
    let Ok(request) = Message::from_vec(message) else {
        return error(ResponseCode::FormErr);
    };
    if request.metadata.message_type != MessageType::Query
        || request.metadata.op_code != OpCode::Query
    {
        return error(ResponseCode::NotImp);
    }
    let [query] = request.queries.as_slice() else {
        return error(ResponseCode::FormErr);
    };
    let payload = request
        .edns
        .as_ref()
        .map_or(512, |edns| edns.max_payload().clamp(512, MAX_UDP_ANSWER));
    let reply = Reply {
        request: request.metadata,
        query: query.clone(),
        payload,
        edns: request.edns.clone(),
    };
    if request
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() != 0)
    {
        return quietly(bad_version(&reply));
    }
    if query.query_class != DNSClass::IN {
        return quietly(reply.respond(ResponseCode::Refused, None));
    }
    let name = plain_name(&query.name);
    let refuse = |name: String, reason: Reason, code| Decision {
        answer: reply.respond(code, Some((BLOCKED, reason.text()))),
        refused: Some(Refused {
            name,
            record_type: query.query_type.to_string(),
            reason,
        }),
    };
    if !allowed(&name) {
        return refuse(name, Reason::NotInCatalog, ResponseCode::NXDomain);
    }
    let kind = match (query.query_type, families) {
        (RecordType::A, _) => Kind::A,
        (RecordType::AAAA, Families::Both) => Kind::Aaaa,
        (RecordType::CNAME, _) => Kind::Cname,
        (RecordType::AAAA | RecordType::HTTPS | RecordType::SVCB, _) => {
            return quietly(reply.respond(ResponseCode::NoError, None));
        }
        _ => return refuse(name, Reason::RecordType, ResponseCode::Refused),
    };
    quietly(Answer::Resolve(Question { reply, name, kind }))
}

/// RFC 6891, 6.1.3.
fn bad_version(reply: &Reply) -> Answer {
    let mut message = reply.message(ResponseCode::BADVERS, None);
    if let Some(edns) = message.edns.as_mut() {
        edns.set_rcode_high(ResponseCode::BADVERS.high());
    }
    message.to_vec().map_or(Answer::Ignore, Answer::Respond)
}

/// As the catalog writes names.
fn plain_name(name: &Name) -> String {
    let mut name = name.to_lowercase().to_ascii();
    if name.ends_with('.') {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests;
