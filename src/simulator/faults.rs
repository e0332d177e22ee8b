//! Faults that the simulated API injects on request.

use std::io;
use std::str::FromStr;

use axum::http::StatusCode;
use bytes::Bytes;

/// One fault. Each variant begins with its name on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `unavailable=N`: the first N streams of each slice get a 503.
    Unavailable(u32),
    /// `cut=N`: the first stream of each slice is cut off after N records.
    Cut(u64),
    /// `error-object=N`: the first stream of each slice ends after N records with an error object.
    ErrorObject(u64),
    /// `short=N`: every stream ends properly, but lacks its last N records.
    Short(u64),
    /// `paged`: the stream is paged like the list.
    Paged,
    /// `broken=N`: every Nth line is cut in half.
    Broken(u64),
    /// `duplicates=N`: every Nth record is sent twice.
    Duplicates(u64),
    /// `flaky=N`: one request in N, at random, fails in a random way.
    Flaky(u64),
}

/// Names on the command line, for help and errors.
const FAULT_NAMES: &str =
    "unavailable=N, cut=N, error-object=N, short=N, paged, broken=N, duplicates=N, flaky=N";

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, number) = text.split_once('=').unwrap_or((text, ""));
        let number = number.parse::<u64>().ok().filter(|&number| number > 0);
        match (name, number) {
            ("paged", None) if text == "paged" => Some(Self::Paged),
            ("unavailable", Some(number)) => u32::try_from(number).ok().map(Self::Unavailable),
            ("cut", Some(number)) => Some(Self::Cut(number)),
            ("error-object", Some(number)) => Some(Self::ErrorObject(number)),
            ("short", Some(number)) => Some(Self::Short(number)),
            ("broken", Some(number)) => Some(Self::Broken(number)),
            ("duplicates", Some(number)) => Some(Self::Duplicates(number)),
            ("flaky", Some(number)) => Some(Self::Flaky(number)),
            _ => None,
        }
        .ok_or_else(|| format!("unknown fault. Use one of: {FAULT_NAMES}"))
    }
}

/// All requested faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub(super) unavailable: u32,
    cut: Option<u64>,
    error_object: Option<u64>,
    pub(super) short: u64,
    pub(super) paged: bool,
    broken: Option<u64>,
    duplicates: Option<u64>,
    flaky: Option<u64>,
}

/// How one request of a flaky API fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RandomFailure {
    /// An error status.
    Status(StatusCode),
    /// A proxy's web page instead of the answer.
    WebPage,
    /// Headers without a body.
    Stall,
    /// A stream that is cut off after some records. Other answers are cut off at once.
    Cut,
    /// A stream that ends in an error object after some records.
    ErrorObject,
    /// A stream that ends properly without its last record.
    Short,
}

impl RandomFailure {
    /// The last two apply to streams only.
    const ALL: [Self; 10] = [
        Self::Status(StatusCode::REQUEST_TIMEOUT),
        Self::Status(StatusCode::TOO_MANY_REQUESTS),
        Self::Status(StatusCode::INTERNAL_SERVER_ERROR),
        Self::Status(StatusCode::BAD_GATEWAY),
        Self::Status(StatusCode::SERVICE_UNAVAILABLE),
        Self::WebPage,
        Self::Stall,
        Self::Cut,
        Self::ErrorObject,
        Self::Short,
    ];
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        let mut all = Self::default();
        for fault in faults {
            match fault {
                Fault::Unavailable(times) => all.unavailable = times,
                Fault::Cut(records) => all.cut = Some(records),
                Fault::ErrorObject(records) => all.error_object = Some(records),
                Fault::Short(records) => all.short = records,
                Fault::Paged => all.paged = true,
                Fault::Broken(every) => all.broken = Some(every),
                Fault::Duplicates(every) => all.duplicates = Some(every),
                Fault::Flaky(one_in) => all.flaky = Some(one_in),
            }
        }
        all
    }
}

impl Faults {
    /// Draws the failure of a request, if it is to fail.
    pub(super) fn random_failure(
        &self,
        is_stream: bool,
        random: &mut fastrand::Rng,
    ) -> Option<RandomFailure> {
        let one_in = self.flaky?;
        let ways = &RandomFailure::ALL[..if is_stream { 10 } else { 8 }];
        (random.u64(..one_in) == 0).then(|| *random.choice(ways).expect("not empty"))
    }

    /// The faults of one stream with a random failure in this attempt. The stream fails after
    /// `records` records.
    pub(super) fn with(&self, failure: Option<RandomFailure>, attempt: u32, records: u64) -> Self {
        let mut faults = self.clone();
        match failure {
            Some(RandomFailure::Cut) => faults.cut = Some(records),
            Some(RandomFailure::ErrorObject) => faults.error_object = Some(records),
            Some(RandomFailure::Short) => faults.short = 1,
            _ => return faults,
        }
        faults.unavailable = attempt - 1;
        faults
    }

    /// Whether the stream fails after `sent` records.
    pub(super) fn fails_after(&self, attempt: u32, sent: u64) -> bool {
        attempt == self.unavailable + 1 && [self.cut, self.error_object].contains(&Some(sent))
    }

    /// The last item of a stream that fails: an error object, or an error of the connection.
    pub(super) fn last_item(&self, so_far: &[u8]) -> Result<Bytes, io::Error> {
        if self.cut.is_some() {
            return Err(io::Error::other("cut on request"));
        }
        Ok([
            so_far,
            b"{\"success\":false,\"message\":\"Internal error\"}\n",
        ]
        .concat()
        .into())
    }

    /// Writes record `number` (from 1) as a line, with the faults applied.
    pub(super) fn write_line(&self, number: u64, out: &mut Vec<u8>, render: impl Fn(&mut Vec<u8>)) {
        let hits = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
        let start = out.len();
        render(out);
        if hits(self.broken) {
            out.truncate(start + (out.len() - start) / 2);
        }
        out.push(b'\n');
        if hits(self.duplicates) {
            out.extend_from_within(start..);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_parsed_from_name_and_number() {
        assert_eq!("cut=10".parse(), Ok(Fault::Cut(10)));
        assert_eq!("paged".parse(), Ok(Fault::Paged));
        assert_eq!("flaky=5".parse(), Ok(Fault::Flaky(5)));
        for wrong in ["", "cut", "cut=0", "paged=1", "paged=", "nonsense=1"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }
}
