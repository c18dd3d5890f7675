#!/bin/sh
# Builds the two images as archives that containerd and Docker load: target/images/{hub,operator}.tar.
#
# No Docker daemon, no base image, no registry: one static program, the CA bundle, nothing else. The flags for a
# static program are those of cargo.sh.
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

deploy/images/cargo.sh -p alkhub-cli -p alkhub-operator

cargo build --locked -q -p alkhub-cluster
mkdir -p "$out"

# pack NAME PROGRAM LIMIT MORE…: one image; refuses a program that wants shared libraries, and an archive over its limit.
pack() {
  name=$1 program=$2 limit=$3
  shift 3
  binary="target/$target/release/$program"
  if ldd "$binary" 2>/dev/null | grep -q '=>'; then
    fail "$binary is not static: $(ldd "$binary" | tr '\n' ' ')"
  fi
  target/debug/alkhub-cluster image --out "$out/$name.tar" --name "alkhub/$name:$version" --user 65532:65532 \
    --entrypoint "/$program" --file "$binary:/$program:755" \
    --file "$CA_BUNDLE:/etc/ssl/certs/ca-certificates.crt:644" "$@"
  size=$(wc -c <"$out/$name.tar")
  [ "$size" -le "$limit" ] || fail "$out/$name.tar has $size bytes; the limit is $limit"
  echo "alkhub/$name:$version  $out/$name.tar  $((size / 1000)) kB (limit $((limit / 1000)) kB)"
}

# /data: where compose.yaml mounts a volume, which takes the folder's mode over.
pack hub alkhub "$HUB_LIMIT_BYTES" --dir /data:1777
pack operator alkhub-operator "$OPERATOR_LIMIT_BYTES"
