//! How hubs are healed and killed, how everything settles, and how a sequence ends.

use tokio::time::timeout;

use super::Play;
use crate::model::{Health, Model};
use crate::steps::{HUBS, Kind, Leave, Reply, SPOKES, Way};
use crate::world::PATIENCE;

impl Play<'_> {
    pub(super) async fn heal(&mut self, hub: usize) -> Result<(), String> {
        match self.health(hub) {
            Health::Fair | Health::Mending => return Ok(()),
            Health::Apart => self.world.heal(hub).await?,
            Health::Ended => {
                let restarted = self.world.restart(hub).await;
                restarted.map_err(|error| format!("hub {hub} does not start: {error:#}"))?;
            }
        }
        self.scene.with(|model| model.turns(hub, Health::Mending));
        Ok(())
    }

    pub(super) async fn kill(&mut self, hub: usize, drains: bool) -> Result<(), String> {
        if !self.turns(hub, Health::Ended) {
            return Ok(());
        }
        self.leave_calls(hub, |_| true);
        let ended = timeout(PATIENCE, self.world.kill(hub, drains)).await;
        ended.map_err(|_| format!("hub {hub} does not end within {PATIENCE:?}"))?;
        self.scene.sees(|model| model.is_left_alone(hub)).await?;
        if let Some(line) = self.caller_lines.remove(&hub) {
            line.leave(Leave::Vanish).await;
        }
        Ok(())
    }

    /// Waits until everything that was begun has settled. All hubs must be whole.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        for hub in 0..HUBS {
            self.world.is_up(hub).await?;
        }
        self.scene.sees(Model::registrations_settled).await?;
        for hub in 0..HUBS {
            for spoke in 0..SPOKES {
                let wanted = self.scene.with(|model| model.directory(spoke));
                self.world.knows(hub, &self.spokes[spoke], &wanted).await?;
            }
        }
        self.scene.sees(Model::calls_placed).await?;
        self.scene.sees(Model::spokes_told).await?;
        self.scene.with(Model::is_calm);
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> Result<(), String> {
        self.scene.with(|model| model.note("> the end"));
        for hub in 0..HUBS {
            self.heal(hub).await?;
        }
        self.settle().await?;
        self.answer_all().await?;
        self.call_from_everywhere().await?;
        self.leave_all().await?;
        for hub in 0..HUBS {
            self.world.is_idle(hub).await?;
        }
        Ok(())
    }

    /// Answers whatever reaches a spoke until every call is over.
    async fn answer_all(&mut self) -> Result<(), String> {
        while self.scene.with(|model| model.calls_over().is_err()) {
            let progress = |model: &Model| match model.calls_over() {
                Err(waits) if model.open().is_empty() => Err(waits),
                Ok(()) | Err(_) => Ok(()),
            };
            self.scene.sees(progress).await?;
            self.answer(0, Reply::Good).await?;
        }
        self.scene.sees(Model::spokes_told).await
    }

    /// Calls every offered operation from every hub.
    async fn call_from_everywhere(&mut self) -> Result<(), String> {
        for spoke in 0..SPOKES {
            if self.scene.with(|model| model.directory(spoke).is_empty()) {
                continue;
            }
            for hub in 0..HUBS {
                self.call(hub, Way::Socket, (spoke, Kind::Query), None).await?;
            }
        }
        self.answer_all().await
    }

    async fn leave_all(&mut self) -> Result<(), String> {
        while !self.spoke_lines.is_empty() {
            self.lose_spoke(0, Leave::Close).await?;
        }
        for hub in 0..HUBS {
            self.lose_caller(hub, Leave::Close).await?;
        }
        Ok(())
    }
}
