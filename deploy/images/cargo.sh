#!/bin/sh
# Builds static release programs: the flags stand here and nowhere else; they go with --target, so that no other build
# sees them. The images and the benchmarks use it, so that what is measured is what is shipped.
#
#   deploy/images/cargo.sh -p alkhub-cli          arguments are cargo's; programs: target/$(uname -m)-unknown-linux-gnu/release
set -eu
cd "$(dirname "$0")/../.."
RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_raw"' \
  exec cargo build --locked --release --target "$(uname -m)-unknown-linux-gnu" "$@"
