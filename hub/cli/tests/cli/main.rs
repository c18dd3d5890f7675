//! The binary as a person uses it: real processes, a real Postgres, a real hub. Nothing is imitated.

mod attacked;
mod calls;
mod commands;
mod dev;
mod examples;
mod first;
mod fixture;
mod kubectl;
mod missing;
mod mistakes;
mod offer;
mod outages;
mod pages;
mod patience;
mod sdk;
mod selftest;
mod tls;
