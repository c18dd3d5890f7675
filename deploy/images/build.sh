#!/bin/sh
# Builds the two images as archives that containerd and Docker load: target/images/{hub,operator}.tar.
#
# No Docker daemon, no base image, no registry: one static program, the CA bundle, nothing else. The flags for a
# static program stand here and nowhere else; they go with --target, so that no other build sees them.
#
#   deploy/images/build.sh            builds, packs and checks the sizes
#   VERSION=1.2.3 deploy/images/build.sh    the tag, if not the workspace's version
set -eu
cd "$(dirname "$0")/../.."

HUB_LIMIT_BYTES=30000000
OPERATOR_LIMIT_BYTES=25000000
CA_BUNDLE=${CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt}

target="$(uname -m)-unknown-linux-gnu"
version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)}
out=target/images

fail() { echo "images: $*" >&2; exit 1; }
[ -n "$version" ] || fail "no version in Cargo.toml"
[ -s "$CA_BUNDLE" ] || fail "$CA_BUNDLE is missing: install ca-certificates, or set CA_BUNDLE"

RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_raw"' \
  cargo build --locked --release --target "$target" -p alkhub-cli -p alkhub-operator

cargo build --locked -q -p alkhub-cluster
mkdir -p "$out"

# pack NAME PROGRAM LIMIT: one image; refuses a program that wants shared libraries, and an archive over its limit.
pack() {
  program="target/$target/release/$2"
  if ldd "$program" 2>/dev/null | grep -q '=>'; then
    fail "$program is not static: $(ldd "$program" | tr '\n' ' ')"
  fi
  target/debug/alkhub-cluster image --out "$out/$1.tar" --name "alkhub/$1:$version" --user 65532:65532 \
    --entrypoint "/$2" --file "$program:/$2:755" --file "$CA_BUNDLE:/etc/ssl/certs/ca-certificates.crt:644"
  size=$(wc -c <"$out/$1.tar")
  [ "$size" -le "$3" ] || fail "$out/$1.tar has $size bytes; the limit is $3"
  echo "alkhub/$1:$version  $out/$1.tar  $((size / 1000)) kB (limit $(($3 / 1000)) kB)"
}

pack hub alkhub "$HUB_LIMIT_BYTES"
pack operator alkhub-operator "$OPERATOR_LIMIT_BYTES"
