//! Operations on a lake in memory, from a scripted source, with time handed in.

mod catalog;
mod convert;
mod due;
mod erase;
mod faults;
mod jobs;
mod month_zones;
mod months;
mod open;
mod prune;
mod rejects;
mod report;
mod show;
mod status;
mod tables;
mod warehouse;
mod world;
