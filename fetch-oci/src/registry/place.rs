//! Who is spoken to: scheme, host and port. Passwords go to one of these and to no other, and few may do without TLS.

use std::fmt;

use ureq::Body;
use ureq::http::{Response, Uri};

/// What tells one server from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    tls: bool,
    /// In small letters; an IPv6 address has brackets.
    host: String,
    port: u16,
}

impl Place {
    /// That of an address; `None` if it is none of HTTP.
    pub(super) fn of(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // A name and a password in an address would be sent along.
        if authority.as_str().contains('@') {
            return None;
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host: authority.host().to_ascii_lowercase(), port })
    }

    /// Whether it has TLS, or is one of those that need none. This machine is one of these only for a registry that needs none
    /// itself: nobody from elsewhere is to have us ask our own services.
    pub(super) fn is_allowed(&self, home: &Self, plain: &[String]) -> bool {
        let without = |service: &str| {
            if home.tls { is_listed(service, plain) } else { may_be_plain(service, plain) }
        };
        let default = !self.tls && self.port == 80;
        self.tls
            || without(&format!("{}:{}", self.host, self.port))
            || default && without(&self.host)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Whether a host, with its port if that is named, may be spoken to without TLS: it is this machine, or one of `plain`.
pub(super) fn may_be_plain(service: &str, plain: &[String]) -> bool {
    is_loopback(service) || is_listed(service, plain)
}

fn is_listed(service: &str, plain: &[String]) -> bool {
    plain.iter().any(|host| host.eq_ignore_ascii_case(service))
}

/// Whether a host, with or without a port, is this machine. A name under `localhost` is whatever a name server says.
pub(super) fn is_loopback(service: &str) -> bool {
    let name = match service.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => service,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    address || name == "localhost"
}

/// Where `response`, which came from `url`, sends us on to with the same method.
pub(super) fn next(method: &str, url: &str, response: &Response<Body>) -> Option<String> {
    let reads = matches!(method, "GET" | "HEAD");
    match response.status().as_u16() {
        307 | 308 => {}
        301..=303 if reads => {}
        _ => return None,
    }
    absolute(url, response.headers().get("location")?.to_str().ok()?)
}

/// The address `location`, which may lack its beginning, as one in an answer from `url`.
pub(super) fn absolute(url: &str, location: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    if location.starts_with("//") {
        return Some(format!("{scheme}:{location}"));
    }
    if location.contains("://") && !location.starts_with(['/', '?']) {
        return Some(location.to_owned());
    }
    let root = format!("{scheme}://{}", uri.authority()?);
    if location.starts_with('/') {
        return Some(format!("{root}{location}"));
    }
    let beside = uri.path().rsplit_once('/').map_or("", |(above, _)| above);
    Some(format!("{root}{beside}/{location}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_without_tls() {
        for loopback in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:80"] {
            assert!(is_loopback(loopback), "{loopback}");
        }
        for other in [
            "docker.io",
            "10.0.0.1:5000",
            "localhost.example.org",
            "[::2]:80",
            "127.0.0.1.nip.io",
            "a.localhost",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
        let plain = ["reg.example:5000".to_owned(), "other.example".to_owned()];
        for (url, expected) in [
            ("https://anyone.example/x", true),
            ("http://anyone.example/x", false),
            ("http://REG.example:5000/x", true),
            ("http://reg.example/x", false),
            ("http://other.example/x", true),
            ("http://other.example:8080/x", false),
            ("http://a.localhost/x", false),
            ("http://[::1]:99/x", true),
        ] {
            let home = Place::of("http://localhost:5000/").unwrap();
            assert_eq!(Place::of(url).unwrap().is_allowed(&home, &plain), expected, "{url}");
        }
        let home = Place::of("https://anyone.example/").unwrap();
        for (url, expected) in [
            ("http://127.0.0.1:2375/x", false),
            ("https://127.0.0.1/x", true),
            ("http://other.example/x", true),
        ] {
            assert_eq!(Place::of(url).unwrap().is_allowed(&home, &plain), expected, "{url}");
        }
    }

    #[test]
    fn places_are_told_apart_by_scheme_host_and_port() {
        let same = |a, b| Place::of(a) == Place::of(b);
        assert!(same("https://Reg.example/a", "https://reg.example:443/b?c"));
        assert!(!same("https://reg.example/", "https://reg.example:444/"));
        assert!(!same("https://reg.example/", "http://reg.example:443/"));
        assert!(!same("https://reg.example/", "https://reg.example.org/"));
        for bad in ["", "/a", "ftp://a/b", "https://", "https://ann:secret@reg.example/"] {
            assert_eq!(Place::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_completed() {
        for (location, expected) in [
            ("https://b/c", "https://b/c"),
            ("//b:1/c", "http://b:1/c"),
            ("/c?d=https://e", "http://a:5/c?d=https://e"),
            ("c", "http://a:5/x/c"),
        ] {
            assert_eq!(absolute("http://a:5/x/y?z=/", location).unwrap(), expected);
        }
    }
}
