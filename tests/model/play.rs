//! Plays a sequence against a world: each step first in the model, then on the wire.
//!
//! At the end everything is healed, every call has ended, every hub was called from every other one, and every peer is
//! gone: then nothing may be left of the sequence.

mod hubs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::model::{Health, Model};
use crate::peers::{Answering, Line, Spelling, Who, call_over_http};
use crate::scene::Scene;
use crate::steps::{Kind, Leave, Reply, SPOKE_OF, SPOKES, Step, Way};
use crate::world::{PATIENCE, World};

/// What a sequence has shown.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The promises that were broken.
    pub(crate) broken: Vec<String>,
    /// What happened, line by line.
    pub(crate) history: Vec<String>,
    /// A word for each call and connection, to be counted.
    pub(crate) tally: Vec<String>,
}

struct Play<'a> {
    world: &'a mut World,
    scene: Arc<Scene>,
    /// The names of the spokes, new in each sequence.
    spokes: [String; SPOKES],
    /// Keyed by the numbers of their connections.
    spoke_lines: HashMap<usize, Line>,
    /// Keyed by hub.
    caller_lines: HashMap<usize, Line>,
    requests: HashMap<usize, AbortHandle>,
    tasks: TaskTracker,
}

/// Plays the steps. `number` must be new to the world, and larger than those before. A world in which a promise was
/// broken must not be used again.
pub(crate) async fn play(world: &mut World, number: usize, steps: &[Step]) -> Outcome {
    let mut play = Play {
        world,
        scene: Arc::new(Scene::new()),
        spokes: ["a", "b"].map(|last| format!("m{number:06}{last}")),
        spoke_lines: HashMap::new(),
        caller_lines: HashMap::new(),
        requests: HashMap::new(),
        tasks: TaskTracker::new(),
    };
    if let Err(what) = play.all(steps).await {
        play.scene.with(|model| model.broke(what));
    }
    play.requests.values().for_each(AbortHandle::abort);
    play.scene.with(|model| Outcome {
        broken: model.broken().to_vec(),
        history: model.history().to_vec(),
        tally: model
            .tally()
            .into_iter()
            .chain(steps.iter().map(|step| step.name()))
            .collect(),
    })
}

impl Play<'_> {
    async fn all(&mut self, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            self.scene.with(|model| model.note(format!("> {step:?}")));
            self.step(*step).await?;
            if self.scene.with(|model| !model.broken().is_empty()) {
                return Ok(());
            }
        }
        self.finish().await
    }

    async fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Register { instance, hub, anew } => self.register(instance, hub, anew).await,
            Step::Call {
                hub,
                way,
                spoke,
                kind,
                limit,
            } => self.call(hub, way, (spoke, kind), limit).await,
            Step::Answer { pick, reply } => self.answer(pick, reply).await,
            Step::Late { pick } => self.answer_late(pick).await,
            Step::Abort { pick } => self.abort(pick).await,
            Step::LoseSpoke { pick, leave } => self.lose_spoke(pick, leave).await,
            Step::LoseCaller { hub, leave } => self.lose_caller(hub, leave).await,
            Step::Cut { hub } => {
                if self.turns(hub, Health::Apart) {
                    self.world.cut(hub);
                }
                Ok(())
            }
            Step::Hold { hub } => {
                if self.turns(hub, Health::Apart) {
                    self.world.hold(hub);
                }
                Ok(())
            }
            Step::Heal { hub } => self.heal(hub).await,
            Step::Kill { hub, drains } => self.kill(hub, drains).await,
            Step::Calm if self.scene.with(|model| model.is_whole()) => self.settle().await,
            Step::Calm => Ok(()),
        }
    }

    fn health(&self, hub: usize) -> Health {
        self.scene.with(|model| model.health(hub))
    }

    /// Notes that a running hub is no longer whole; false if the hub does not run.
    fn turns(&self, hub: usize, health: Health) -> bool {
        self.scene.with(|model| {
            let runs = model.health(hub) != Health::Ended;
            if runs {
                model.turns(hub, health);
            }
            runs
        })
    }
}

/// What spokes do.
impl Play<'_> {
    async fn register(&mut self, instance: usize, hub: usize, anew: bool) -> Result<(), String> {
        if self.health(hub) == Health::Ended {
            return Ok(());
        }
        let there = self.scene.with(|model| model.connection_at(instance, hub));
        let connection = match there.filter(|_| !anew) {
            Some(connection) => connection,
            None => self.connect_spoke(instance, hub).await?,
        };
        self.scene.with(|model| model.asks(connection));
        let spoke = self.spokes[SPOKE_OF[instance]].clone();
        if let Some(line) = self.spoke_lines.get_mut(&connection) {
            line.register(&spoke, instance).await;
        }
        if self.scene.with(|model| model.is_whole()) {
            self.scene.sees(|model| model.is_answered(connection)).await?;
        }
        Ok(())
    }

    async fn connect_spoke(&mut self, instance: usize, hub: usize) -> Result<usize, String> {
        let connection = self.scene.with(|model| model.connected(instance, hub));
        let line = self
            .connect(hub, Spelling::of(instance), Who::Spoke(connection))
            .await?;
        self.spoke_lines.insert(connection, line);
        Ok(connection)
    }

    async fn connect(&self, hub: usize, spelling: Spelling, who: Who) -> Result<Line, String> {
        let (url, key) = (self.world.url(hub), self.world.key());
        let line = Line::connect(&url, key, spelling, who, &self.scene).await;
        line.map_err(|error| format!("{who:?} cannot connect: {error:#}"))
    }

    async fn answer(&mut self, pick: usize, reply: Reply) -> Result<(), String> {
        let said = self.scene.with(|model| {
            let open = model.open();
            let number = *open.get(pick % open.len().max(1))?;
            let of = answering(model, number)?;
            let first = model.says(number, reply);
            Some((of, first))
        });
        if let Some((of, first)) = said
            && let Some(line) = self.spoke_lines.get_mut(&of.connection)
        {
            line.answer(&of, reply, first).await;
        }
        Ok(())
    }

    async fn answer_late(&mut self, pick: usize) -> Result<(), String> {
        let of = self.scene.with(|model| {
            let late = model.late();
            let number = *late.get(pick % late.len().max(1))?;
            answering(model, number)
        });
        if let Some(of) = of
            && let Some(line) = self.spoke_lines.get_mut(&of.connection)
        {
            line.answer_late(&of.request).await;
        }
        Ok(())
    }

    async fn lose_spoke(&mut self, pick: usize, leave: Leave) -> Result<(), String> {
        let mut open: Vec<usize> = self.spoke_lines.keys().copied().collect();
        open.sort_unstable();
        let Some(&connection) = open.get(pick % open.len().max(1)) else {
            return Ok(());
        };
        self.scene.with(|model| model.leaves(connection));
        let line = self.spoke_lines.remove(&connection).expect("it was picked among them");
        leaves(line, leave).await?;
        self.scene.with(|model| {
            if !model.connections[connection].is_closed {
                model.closed(connection, None);
            }
        });
        Ok(())
    }
}

fn answering(model: &Model, number: usize) -> Option<Answering> {
    let leg = model.leg(number)?;
    Some(Answering {
        number,
        kind: model.kind(number)?,
        connection: leg.connection,
        request: leg.request.clone(),
    })
}

async fn leaves(line: Line, leave: Leave) -> Result<(), String> {
    timeout(PATIENCE, line.leave(leave))
        .await
        .map_err(|_| format!("a close was not answered within {PATIENCE:?}"))
}

/// What callers do.
impl Play<'_> {
    async fn call(
        &mut self,
        hub: usize,
        way: Way,
        operation: (usize, Kind),
        limit: Option<Duration>,
    ) -> Result<(), String> {
        if self.health(hub) == Health::Ended {
            return Ok(());
        }
        let (spoke, kind) = operation;
        let number = self.scene.with(|model| model.calls(hub, spoke, kind, limit));
        let spoke = self.spokes[spoke].clone();
        match way {
            Way::Socket => self.callers(hub).await?.call(number, &spoke, kind, limit).await,
            Way::Http => {
                let http = self.world.http(hub).clone();
                let call = call_over_http(http, number, (spoke, kind), limit, Arc::clone(&self.scene));
                self.requests.insert(number, self.tasks.spawn(call).abort_handle());
            }
        }
        Ok(())
    }

    /// The WebSocket of a hub's callers.
    async fn callers(&mut self, hub: usize) -> Result<&mut Line, String> {
        if !self.caller_lines.contains_key(&hub) {
            self.scene.with(|model| model.callers(hub, false));
            let line = self.connect(hub, Spelling::of(hub), Who::Callers(hub)).await?;
            self.caller_lines.insert(hub, line);
        }
        Ok(self.caller_lines.get_mut(&hub).expect("it is there now"))
    }

    async fn abort(&mut self, pick: usize) -> Result<(), String> {
        let running = self.scene.with(|model| model.running());
        let Some(&number) = running.get(pick % running.len().max(1)) else {
            return Ok(());
        };
        let request = self.requests.remove(&number);
        self.scene.with(|model| model.gives_up(number, request.is_some()));
        let hub = self.scene.with(|model| model.calls[number].hub);
        match request {
            Some(request) => request.abort(),
            None => self.callers(hub).await?.abort(&number.to_string()).await,
        }
        Ok(())
    }

    async fn lose_caller(&mut self, hub: usize, leave: Leave) -> Result<(), String> {
        let Some(line) = self.caller_lines.remove(&hub) else {
            return Ok(());
        };
        self.scene.with(|model| model.callers(hub, true));
        self.leave_calls(hub, |number| !self.requests.contains_key(&number));
        leaves(line, leave).await
    }

    /// Lets nobody wait any more for those calls of a hub that `which` selects.
    fn leave_calls(&self, hub: usize, which: impl Fn(usize) -> bool) {
        self.scene.with(|model| {
            for number in model.running_at(hub) {
                if which(number) {
                    model.gives_up(number, true);
                }
            }
        });
    }
}
