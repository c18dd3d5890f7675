//! Plays the schedule of a seed against a world while spokes, callers and publishers work, and checks what is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_test_support::{Proxy, try_until_within};
use alkhub_tests::http::Http;
use anyhow::Result;
use futures::future::try_join_all;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::callers::{self, call_over_http, is_taken, publish};
use crate::ledger::{Kind, Ledger};
use crate::run::{NAMES, Run};
use crate::schedule::{CALLERS, Fault, HUBS, Line, Planned, SPOKES, Trouble, schedule};
use crate::spokes;
use crate::world::{PATIENCE, World, begin, middle};

/// How long work continues after the last trouble.
const AFTER: Duration = Duration::from_millis(300);

/// What a run has shown.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) broken: Vec<String>,
    pub(crate) history: Vec<String>,
    pub(crate) counts: BTreeMap<String, u64>,
    /// How long it took until every operation could be called through every hub.
    pub(crate) callable: Duration,
}

/// A phase of a trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Begin,
    Middle,
    End,
}

struct Play<'a> {
    world: &'a mut World,
    run: Run,
    spokes: Vec<spokes::Program>,
    callers: Vec<callers::Program>,
    /// Callers over HTTP.
    http: JoinSet<()>,
    publishers: JoinSet<()>,
    /// Spokes that are ending.
    leaving: JoinSet<()>,
    callable: Duration,
}

/// Plays a seed. `number` must be new to the world. A world in which a promise was broken must not be used again.
///
/// # Errors
/// A proxy cannot be started.
pub(crate) async fn play(world: &mut World, number: usize, seed: u64) -> Result<Outcome> {
    let run = Run {
        ledger: Arc::new(Ledger::new()),
        places: world.places(),
        key: world.key().into(),
        prefix: format!("c{number:04}").into(),
        seed,
        stop: CancellationToken::new(),
    };
    let mut play = Play {
        world,
        run,
        spokes: Vec::new(),
        callers: Vec::new(),
        http: JoinSet::new(),
        publishers: JoinSet::new(),
        leaving: JoinSet::new(),
        callable: Duration::ZERO,
    };
    for number in 0..SPOKES {
        play.spokes.push(spokes::Program::new(number).await?);
    }
    for number in 0..CALLERS {
        play.callers.push(callers::Program::new(number).await?);
    }
    let ledger = Arc::clone(&play.run.ledger);
    if let Err(what) = play.all().await {
        ledger.broken(what);
    }
    let callable = play.callable;
    // Calls that still run now count as left.
    drop(play);
    ledger.judge();
    Ok(Outcome {
        broken: ledger.all_broken(),
        history: ledger.history(),
        counts: ledger.counts(),
        callable,
    })
}

impl Play<'_> {
    async fn all(&mut self) -> Result<(), String> {
        self.spread();
        self.spokes.iter_mut().for_each(|spoke| spoke.start(&self.run));
        self.can_be_called().await?;
        self.callers.iter_mut().for_each(|caller| caller.start(&self.run));
        self.http.spawn(call_over_http(self.run.clone()));
        for hub in 0..HUBS {
            self.publishers.spawn(publish(self.run.clone(), hub));
        }
        self.trouble().await?;
        self.heal().await?;
        let healed = Instant::now();
        self.can_be_called().await?;
        self.callable = healed.elapsed();
        sleep_until(Instant::now() + AFTER).await;
        self.finish().await
    }

    /// Plays every phase of every trouble at its time.
    async fn trouble(&mut self) -> Result<(), String> {
        let mut parts: Vec<(Duration, Planned, Part)> = Vec::new();
        for planned in schedule(self.run.seed) {
            let Planned { at, lasts, .. } = planned;
            let all = [
                (at, Part::Begin),
                (at + lasts / 2, Part::Middle),
                (at + lasts, Part::End),
            ];
            parts.extend(all.map(|(at, part)| (at, planned, part)));
        }
        parts.sort_by_key(|(at, ..)| *at);
        let begun = Instant::now();
        for (at, planned, part) in parts {
            sleep_until(begun + at).await;
            if part != Part::Middle {
                self.run.ledger.note(format!("> {part:?} {:?}", planned.trouble));
            }
            self.act(planned.trouble, part).await?;
        }
        Ok(())
    }

    async fn act(&mut self, trouble: Trouble, part: Part) -> Result<(), String> {
        match (trouble, part) {
            (Trouble::Line(line, fault), part) => self.line(line, fault, part),
            (Trouble::KillHub(hub), Part::Begin) => self.lose(hub, false),
            (Trouble::DrainHub(hub), Part::Begin) => self.lose(hub, true),
            (Trouble::KillHub(hub) | Trouble::DrainHub(hub), Part::End) => return self.replace(hub).await,
            (Trouble::KillSpoke(spoke), Part::Begin) => self.spokes[spoke].kill(),
            (Trouble::EndSpoke(spoke), Part::Begin) => {
                let ending = self.spokes[spoke].end();
                self.leaving.spawn(ending);
            }
            (Trouble::KillSpoke(spoke) | Trouble::EndSpoke(spoke), Part::End) => self.spokes[spoke].start(&self.run),
            (Trouble::KillCaller(caller), Part::Begin) => self.callers[caller].kill(),
            (Trouble::KillCaller(caller), Part::End) => self.callers[caller].start(&self.run),
            (_, Part::Middle) => {}
        }
        Ok(())
    }

    fn line(&self, line: Line, fault: Fault, part: Part) {
        let proxy = match line {
            Line::Spoke(spoke) => &self.spokes[spoke].proxy,
            Line::Caller(caller) => &self.callers[caller].proxy,
            Line::Redis(hub) => self.world.redis(hub),
            Line::Peer(hub) => self.world.peer(hub),
        };
        // The connections to and from a hub that is away stay cut.
        let is_away = |hub: usize| self.world.is_away(hub);
        if matches!(line, Line::Redis(hub) | Line::Peer(hub) if is_away(hub)) {
            return;
        }
        match part {
            Part::Begin => begin(proxy, fault),
            Part::Middle => middle(proxy, fault),
            Part::End => proxy.heal(),
        }
    }

    fn lose(&mut self, hub: usize, drains: bool) {
        self.world.lose(hub, drains);
        self.spread();
    }

    async fn replace(&mut self, hub: usize) -> Result<(), String> {
        let replaced = self.world.replace(hub).await;
        replaced.map_err(|error| format!("hub {hub} is not replaced: {error:#}"))?;
        self.spread();
        Ok(())
    }

    /// Leads new connections to the hubs that are there.
    fn spread(&self) {
        for (from, proxy) in self.proxies().enumerate() {
            proxy.spread_over(self.run.places.spread(from));
        }
    }

    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        let spokes = self.spokes.iter().map(|spoke| &spoke.proxy);
        spokes.chain(self.callers.iter().map(|caller| &caller.proxy))
    }

    /// Makes everything whole, and everybody present, from now on.
    async fn heal(&mut self) -> Result<(), String> {
        self.run.ledger.note("> all is healed");
        for hub in 0..HUBS {
            self.replace(hub).await?;
            self.world.redis(hub).heal();
            self.world.peer(hub).heal();
        }
        self.proxies().for_each(Proxy::heal);
        self.spokes.iter_mut().for_each(|spoke| spoke.start(&self.run));
        self.callers.iter_mut().for_each(|caller| caller.start(&self.run));
        self.world.is_whole().await
    }

    /// Waits until every operation of every spoke can be called through every hub.
    async fn can_be_called(&self) -> Result<(), String> {
        let (mut clients, mut looks) = (Vec::new(), Vec::new());
        for hub in 0..HUBS {
            let url = self.run.places.url(hub).ok_or_else(|| format!("hub {hub} is away"))?;
            clients.push(Http::new(url, &*self.run.key));
        }
        for (hub, http) in clients.iter().enumerate() {
            for (name, kind) in NAMES
                .into_iter()
                .flat_map(|name| [(name, Kind::Query), (name, Kind::Mutation)])
            {
                looks.push(self.is_called(hub, http, (self.run.named(name, kind), kind)));
            }
        }
        try_join_all(looks).await.map(drop)
    }

    async fn is_called(&self, hub: usize, http: &Http, (operation, kind): (String, Kind)) -> Result<(), String> {
        let what = format!("{operation} can be called through hub {hub}");
        try_until_within(&what, PATIENCE, || async {
            let call = self.run.begins(&operation, kind);
            self.world.answers(http, &operation, call.number).await
        })
        .await
    }

    /// Ends everything in good order; nothing may be left.
    async fn finish(&mut self) -> Result<(), String> {
        self.run.ledger.note("> the end");
        self.run.stop.cancel();
        ends("the calls over HTTP", async {
            while self.http.join_next().await.is_some() {}
        })
        .await?;
        ends("the publishers", async {
            while self.publishers.join_next().await.is_some() {}
        })
        .await?;
        for caller in &mut self.callers {
            ends("the calls of a caller", caller.calls_end()).await?;
        }
        self.last_events().await?;
        for caller in &mut self.callers {
            ends("a caller", caller.close()).await?;
        }
        for spoke in &mut self.spokes {
            ends("a spoke", spoke.end()).await?;
        }
        ends("the spokes that were told to", async {
            while self.leaving.join_next().await.is_some() {}
        })
        .await?;
        self.world.is_idle().await
    }

    /// Waits until everybody who follows the topic sees events of every hub again.
    async fn last_events(&mut self) -> Result<(), String> {
        let (run, places) = (&self.run, Arc::clone(&self.run.places));
        let publishing = async {
            loop {
                for hub in 0..HUBS {
                    if let Some(url) = places.url(hub) {
                        let event = json!({ "from": "the end", "number": 0, "last": hub });
                        is_taken(&Http::new(url, &*run.key), &run.topic(), &event).await;
                    }
                }
                sleep_until(Instant::now() + Duration::from_millis(100)).await;
            }
        };
        let seeing = async {
            for caller in &mut self.callers {
                caller.events_end().await;
            }
        };
        let seen = async {
            tokio::select! {
                () = publishing => {}
                () = seeing => {}
            }
        };
        ends("a stream of events", seen).await
    }
}

/// Waits until something ends.
async fn ends(what: &str, ending: impl Future<Output = ()>) -> Result<(), String> {
    timeout(PATIENCE, ending)
        .await
        .map_err(|_| format!("{what} does not end within {PATIENCE:?}"))
}
