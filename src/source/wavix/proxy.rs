//! The proxy in front of the API, where variables name one.

use url::{Host, Url};

/// A proxy that a variable names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// The variable.
    pub(super) variable: &'static str,
    /// Its address, without what it takes to be let in.
    pub(super) address: String,
}

impl Proxy {
    /// The proxy by which the client reaches `url`, by the rules of its library: one for each
    /// scheme, one for all, and hosts that need none. Of the last, addresses with a mask are not
    /// looked at.
    pub(super) fn of(url: &Url, variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let first = |names: &[&'static str]| {
            let set = |name: &&'static str| Some((*name, variable(name)?));
            names.iter().find_map(set)
        };
        let host = url.host_str()?;
        let (_, needs_none) = first(&["NO_PROXY", "no_proxy"]).unwrap_or_default();
        let is_of = |name: &str| {
            let name = name.trim().trim_start_matches('.');
            let is_above = || {
                host.strip_suffix(name)
                    .is_some_and(|rest| rest.ends_with('.'))
            };
            name == "*" || (!name.is_empty() && (host.eq_ignore_ascii_case(name) || is_above()))
        };
        if variable("REQUEST_METHOD").is_some() || needs_none.split(',').any(is_of) {
            return None;
        }
        let of_scheme = match url.scheme() {
            "https" => ["HTTPS_PROXY", "https_proxy"],
            _ => ["HTTP_PROXY", "http_proxy"],
        };
        let named = |(_, value): &(&str, String)| !value.is_empty();
        let (variable, value) = first(&of_scheme)
            .filter(named)
            .or_else(|| first(&["ALL_PROXY", "all_proxy"]).filter(named))?;
        Some(Self {
            variable,
            address: shown(&value),
        })
    }
}

/// The address of a proxy, as scheme, host and port.
fn shown(value: &str) -> String {
    let value = if value.contains("://") {
        value.to_owned()
    } else {
        format!("http://{value}")
    };
    // What stands before an `@` is no host, however it was read: a slash in a password ends it.
    let is_whole = |url: &Url| !url[url::Position::BeforePath..].contains('@');
    let url = Url::parse(&value).ok().filter(is_whole);
    let host = url.as_ref().and_then(Url::host);
    let (Some(url), Some(host)) = (url.as_ref(), host) else {
        return "which is no address".to_owned();
    };
    let host = match host {
        Host::Ipv6(address) => format!("[{address}]"),
        host => host.to_string(),
    };
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    format!("{}://{host}{port}", url.scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(url: &str, variables: &[(&str, &str)]) -> Option<(&'static str, String)> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let proxy = Proxy::of(&Url::parse(url).unwrap(), variable)?;
        Some((proxy.variable, proxy.address))
    }

    #[test]
    fn the_reported_proxy_is_that_of_the_client_and_has_no_password() {
        let api = "https://api.wavix.com";
        for (variables, expected) in [
            (
                &[("https_proxy", "http://user:secret@proxy:3128/?a=secret")][..],
                Some(("https_proxy", "http://proxy:3128")),
            ),
            (
                &[
                    ("HTTPS_PROXY", "user:secret@10.0.0.1:80"),
                    ("https_proxy", "x"),
                ],
                Some(("HTTPS_PROXY", "http://10.0.0.1")),
            ),
            (
                &[("HTTPS_PROXY", ""), ("ALL_PROXY", "socks5h://[::1]:1080")],
                Some(("ALL_PROXY", "socks5h://[::1]:1080")),
            ),
            (
                &[("https_proxy", "http://user:secret@")],
                Some(("https_proxy", "which is no address")),
            ),
            (
                &[("https_proxy", "user:12/x@host")],
                Some(("https_proxy", "which is no address")),
            ),
            (&[("http_proxy", "proxy")], None),
            (
                &[("https_proxy", "proxy"), ("no_proxy", "a, .wavix.com")],
                None,
            ),
            (&[("https_proxy", "proxy"), ("NO_PROXY", "*")], None),
            (&[("https_proxy", "proxy"), ("REQUEST_METHOD", "GET")], None),
            (
                &[("https_proxy", "proxy"), ("no_proxy", "vix.com,,")],
                Some(("https_proxy", "http://proxy")),
            ),
        ] {
            let expected = expected.map(|(name, address)| (name, address.to_owned()));
            assert_eq!(proxy(api, variables), expected, "{variables:?}");
        }
        let plain = proxy("http://x", &[("HTTP_PROXY", "p:1")]);
        assert_eq!(plain, Some(("HTTP_PROXY", "http://p:1".to_owned())));
    }
}
