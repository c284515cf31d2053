//! Integration tests of the real `sni-router` binary in network namespaces. They need root; see
//! README.md of this package.
//!
//! Every test of a connection's behaviour runs once per datapath and checks, by the access log,
//! that this datapath carried it.

mod access_log;
mod admin;
mod adversity;
mod asymmetric;
mod attacks;
mod bridge;
mod bulk;
mod choice;
mod cli;
mod clsact;
mod clusters;
mod conntrack;
mod crowd;
mod dashboard;
mod deployment;
mod differential;
mod doctor;
mod ecn;
mod endings;
mod endpoints;
mod foreign;
mod full;
mod full_rate;
mod gone;
mod handover;
mod hellos;
mod hooks;
mod hosts;
mod interfaces;
mod ipsec;
mod lab;
mod lifetime;
mod load;
mod metrics;
mod million;
mod moves;
mod opening;
mod operate;
mod path_mtu;
mod ports;
mod pressure;
mod program;
mod rejections;
mod reload;
mod restart;
mod service;
mod shortcut;
mod storm;
mod succession;
mod sums;
mod turnover;
mod versions;
mod vlan;
mod vxlan;

mod windows;
mod wire;
