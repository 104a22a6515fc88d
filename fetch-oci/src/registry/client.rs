//! Speaks to a registry: tokens, retries, and which requests may go without TLS.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use obuilder_core::Cancel;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body};

use super::Access;
use super::auth::{Challenge, encode};
use super::credentials::{self, Credentials};
use super::place::{self, Place};
use crate::error::{Error, Result};
use crate::name::Reference;

/// Nobody answers a question for a token with more bytes than this.
const LARGEST_TOKEN: u64 = 1 << 20;

/// A registry that asks for more patience gets no more than this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Whoever sends us on further than this is not followed.
const MOST_HOPS: usize = 5;

/// What is done to a repository, for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    Pull,
    Push,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Pull { "pull" } else { "pull,push" })
    }
}

/// One repository of one registry, as it is asked.
pub(crate) struct Client {
    agent: Agent,
    pub(crate) access: Access,
    pub(crate) host: String,
    /// `https://HOST`, or `http://HOST`.
    root: String,
    /// The same; nobody else hears a password or a token.
    home: Place,
    repository: String,
    /// `Authorization` headers by what they allow.
    allowed: Mutex<HashMap<Action, String>>,
}

/// A request, without what tokens add.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'static str,
    pub(crate) url: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// What it is for, as `read the manifest`.
    pub(crate) purpose: &'a str,
}

impl Client {
    /// For the repository of `reference`.
    pub(crate) fn new(access: &Access, reference: &Reference) -> Result<Self> {
        let service = reference.service();
        let plain = place::may_be_plain(service, &access.plain_http);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("obuild/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(access.silence))
            .timeout_recv_response(Some(access.silence))
            .timeout_per_read(Some(access.silence))
            .timeout_per_write(Some(access.silence))
            .tls_config(tls(access)?);
        let agent = if place::is_loopback(service) { agent.proxy(None) } else { agent };
        let scheme = if plain { "http" } else { "https" };
        let root = format!("{scheme}://{service}");
        let home = Place::of(&root).ok_or_else(|| Error::BadName {
            text: reference.to_string(),
            why: format!("`{service}` is no host"),
        })?;
        Ok(Self {
            agent: agent.build().into(),
            access: access.clone(),
            host: reference.host.clone(),
            root,
            home,
            repository: reference.repository.clone(),
            allowed: Mutex::default(),
        })
    }

    /// The address of something in the repository.
    pub(crate) fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.root, self.repository)
    }

    /// An address that the registry gave, which may lack its beginning.
    pub(crate) fn absolute(&self, location: &str) -> String {
        match location.starts_with('/') {
            true => format!("{}{location}", self.root),
            false => location.to_owned(),
        }
    }

    /// Asks once, and once more with a token if one is asked for.
    pub(crate) fn once(
        &self,
        ask: &Ask<'_>,
        action: Action,
        body: &mut impl AsBody,
    ) -> Result<Response<Body>> {
        let known = self.lock().get(&action).cloned();
        let (response, by) = self.send(ask, known.as_deref(), body)?;
        if response.status() != 401 {
            return Ok(response);
        }
        // Where we were sent on to may not ask who we are.
        if by != self.home {
            return Err(self.denied(ask));
        }
        let token = self.answer(&response, action)?;
        let Some(token) = token.filter(|token| known.as_ref() != Some(token)) else {
            return Err(self.denied(ask));
        };
        self.lock().insert(action, token.clone());
        let (response, _) = self.send(ask, Some(&token), body)?;
        if response.status() == 401 { Err(self.denied(ask)) } else { Ok(response) }
    }

    /// Asks until there is an answer that another try would not change.
    pub(crate) fn ask(
        &self,
        ask: &Ask<'_>,
        action: Action,
        body: &mut impl AsBody,
        cancel: &Cancel,
    ) -> Result<Response<Body>> {
        let mut tries = Tries::new(&self.access);
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match self.once(ask, action, body) {
                Ok(response) if is_passing(response.status().as_u16()) => {
                    let after = retry_after(&response);
                    tries.again(self.answered(ask, &response), after, cancel)?;
                }
                Err(error @ Error::Unreachable { .. }) => tries.again(error, None, cancel)?,
                done => return done,
            }
        }
    }

    /// Sends a request, and sends it on to where the answer says it belongs; gives the answer, and whose it is.
    fn send(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&str>,
        body: &mut impl AsBody,
    ) -> Result<(Response<Body>, Place)> {
        let mut url = ask.url.clone();
        for _ in 0..=MOST_HOPS {
            let at = self.allowed_place(&url, ask.purpose)?;
            let mut request = Request::builder().method(ask.method).uri(&url);
            for (name, value) in &ask.headers {
                request = request.header(*name, value);
            }
            if let Some(authorization) = authorization.filter(|_| at == self.home) {
                request = request.header("Authorization", authorization);
            }
            let response =
                body.send(&self.agent, request).map_err(|error| self.unreachable(error))?;
            match place::next(ask.method, &url, &response) {
                Some(next) => url = next,
                None => return Ok((response, at)),
            }
        }
        Err(self.wrong("more than five places to look at", ask.purpose))
    }

    /// Whose `url` is, if it may be asked.
    fn allowed_place(&self, url: &str, purpose: &str) -> Result<Place> {
        let place = Place::of(url);
        let place = place.ok_or_else(|| self.wrong("an address that makes no sense", purpose))?;
        if place.is_allowed(&self.home, &self.access.plain_http) {
            return Ok(place);
        }
        Err(self.wrong(&format!("`{place}`, which has no TLS,"), purpose))
    }

    fn wrong(&self, answer: &str, purpose: &str) -> Error {
        let (host, answer) = (self.host.clone(), answer.to_owned());
        Error::Answer { host, answer, action: purpose.to_owned() }
    }

    /// The `Authorization` header that a refused request asks for, if we can make it.
    fn answer(&self, refused: &Response<Body>, action: Action) -> Result<Option<String>> {
        let headers = refused.headers().get_all("www-authenticate").iter();
        let mut challenges = headers.filter_map(|header| Challenge::parse(header.to_str().ok()?));
        let Some(challenge) = challenges.next() else { return Ok(None) };
        let config = self.access.docker_config.as_ref();
        let found =
            config.map(|config| credentials::find(config, &self.host)).transpose()?.flatten();
        match (challenge, found) {
            (Challenge::Basic, Some(Credentials::Password(user, password))) => {
                Ok(Some(basic(&user, &password)))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, found) => {
                let scope = scope.filter(|_| action == Action::Pull);
                let usual = || format!("repository:{}:{action}", self.repository);
                let scope = scope.unwrap_or_else(usual);
                self.token(&realm, &service.unwrap_or_default(), &scope, found)
            }
        }
    }

    /// Asks for a token at `url`, and wherever that sends us. The password is for the one who was named alone.
    fn get_token(&self, url: &str, found: Option<&Credentials>) -> Result<Response<Body>> {
        const PURPOSE: &str = "give a token";
        let (mut url, named) = (url.to_owned(), Place::of(url));
        for _ in 0..=MOST_HOPS {
            let at = self.allowed_place(&url, PURPOSE)?;
            let mut request = Request::builder().uri(&url);
            if let Some(Credentials::Password(user, password)) = found
                && named.as_ref() == Some(&at)
            {
                request = request.header("Authorization", basic(user, password));
            }
            let response = ().send(&self.agent, request).map_err(|error| self.unreachable(error))?;
            match place::next("GET", &url, &response) {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(self.wrong("more than five places to look at", PURPOSE))
    }

    /// Gets a token at `realm`.
    fn token(
        &self,
        realm: &str,
        service: &str,
        scope: &str,
        found: Option<Credentials>,
    ) -> Result<Option<String>> {
        #[derive(serde::Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        self.allowed_place(realm, "give a token")?;
        let mut query = format!("service={}&scope={}", encode(service), encode(scope));
        let response = if let Some(Credentials::Identity(identity)) = &found {
            query.push_str("&grant_type=refresh_token&client_id=obuild&refresh_token=");
            query.push_str(&encode(identity));
            let form = "application/x-www-form-urlencoded";
            let request = Request::builder().method("POST").uri(realm).header("Content-Type", form);
            query.as_str().send(&self.agent, request).map_err(|error| self.unreachable(error))
        } else {
            let joint = if realm.contains('?') { '&' } else { '?' };
            self.get_token(&format!("{realm}{joint}{query}"), found.as_ref())
        }?;
        if is_passing(response.status().as_u16()) {
            let ask = Ask { purpose: "give a token", ..Ask::default() };
            return Err(Error::Unreachable {
                host: self.host.clone(),
                source: Box::new(self.answered(&ask, &response)),
            });
        }
        if !response.status().is_success() {
            return Ok(None);
        }
        let body = self.body(response, LARGEST_TOKEN)?;
        let token = serde_json::from_slice::<Token>(&body).ok();
        let token = token.and_then(|all| all.token.or(all.access_token));
        Ok(token.map(|token| format!("Bearer {token}")))
    }

    /// The whole body of a response, of at most `most` bytes.
    pub(crate) fn body(&self, response: Response<Body>, most: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = response.into_body().into_reader().take(most + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.unreachable(error))?;
        if bytes.len() as u64 > most {
            let what = format!("an answer of the registry {}", self.host);
            return Err(Error::TooLarge { what, limit: format!("{most} bytes") });
        }
        Ok(bytes)
    }

    /// The error for an answer that is none of those expected.
    pub(crate) fn answered(&self, ask: &Ask<'_>, response: &Response<Body>) -> Error {
        match response.status().as_u16() {
            401 | 403 => self.denied(ask),
            _ => Error::Answer {
                host: self.host.clone(),
                answer: response.status().to_string(),
                action: ask.purpose.to_owned(),
            },
        }
    }

    fn denied(&self, ask: &Ask<'_>) -> Error {
        Error::Denied { host: self.host.clone(), action: ask.purpose.to_owned() }
    }

    pub(crate) fn unreachable(
        &self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Unreachable { host: self.host.clone(), source: source.into() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Action, String>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that can be sent, several times if need be.
pub(crate) trait AsBody {
    /// Sends it.
    fn send(
        &mut self,
        agent: &Agent,
        request: ureq::http::request::Builder,
    ) -> std::result::Result<Response<Body>, ureq::Error>;
}

impl AsBody for () {
    fn send(
        &mut self,
        agent: &Agent,
        request: ureq::http::request::Builder,
    ) -> std::result::Result<Response<Body>, ureq::Error> {
        run(agent, request, ())
    }
}

impl AsBody for &str {
    fn send(
        &mut self,
        agent: &Agent,
        request: ureq::http::request::Builder,
    ) -> std::result::Result<Response<Body>, ureq::Error> {
        run(agent, request, *self)
    }
}

impl AsBody for &[u8] {
    fn send(
        &mut self,
        agent: &Agent,
        request: ureq::http::request::Builder,
    ) -> std::result::Result<Response<Body>, ureq::Error> {
        run(agent, request, *self)
    }
}

pub(crate) fn run(
    agent: &Agent,
    request: ureq::http::request::Builder,
    body: impl AsSendBody,
) -> std::result::Result<Response<Body>, ureq::Error> {
    agent.run(request.body(body)?)
}

/// Counts tries, and waits between them.
pub(crate) struct Tries {
    left: u32,
    wait: Duration,
    all: u32,
    first: Duration,
}

impl Tries {
    pub(crate) fn new(access: &Access) -> Self {
        let (all, first) = (access.retries, access.first_wait);
        Self { left: all, wait: first, all, first }
    }

    /// Waits for the next try; gives `error` back if there have been enough of them.
    pub(crate) fn again(
        &mut self,
        error: Error,
        after: Option<Duration>,
        cancel: &Cancel,
    ) -> Result<()> {
        if self.left == 0 {
            return Err(error);
        }
        self.left -= 1;
        tracing::info!("trying again: {error}");
        if cancel.wait_timeout(after.unwrap_or(self.wait).min(LONGEST_WAIT)) {
            return Err(Error::Cancelled);
        }
        self.wait *= 2;
        Ok(())
    }

    /// There was progress: counting begins again.
    pub(crate) fn progress(&mut self) {
        (self.left, self.wait) = (self.all, self.first);
    }
}

/// Whether another try may have another answer.
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=504)
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn tls(access: &Access) -> Result<TlsConfig> {
    let Some(path) = &access.certificates else { return Ok(TlsConfig::builder().build()) };
    let pem = fs::read(path).map_err(|error| Error::path("read", path, error))?;
    let bad = |why: String| Error::Io {
        action: format!("read certificates from `{}`", path.display()),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, why),
    };
    let mut all: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| bad(error.to_string()))? {
            all.push(certificate);
        }
    }
    if all.is_empty() {
        return Err(bad("there is none in it".to_owned()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&all)).build())
}
