#!/usr/bin/env bash
# Writes charts/whichpod.yaml from the chart, for clusters without Helm; with --check it only says whether that file is
# up to date.
set -euo pipefail
cd "$(dirname "$0")"
. ./lib.sh

manifest() {
  cat <<'HEAD'
# whichpod with the chart's default values, in a namespace of its own:
#   kubectl apply --server-side --filename whichpod.yaml
# Made from the chart by charts/manifest.sh: change that, not this.
apiVersion: v1
kind: Namespace
metadata:
  name: whichpod-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
HEAD
  # What a plain `kubectl apply` makes is not Helm's.
  render whichpod-system --no-hooks |
    sed -e '/helm\.sh\/chart:/d' -e '/app\.kubernetes\.io\/managed-by: Helm/d'
}

case "${1:-}" in
  "") manifest > whichpod.yaml ;;
  --check)
    manifest | diff -u whichpod.yaml - || {
      echo "charts/whichpod.yaml is not what the chart renders: run charts/manifest.sh" >&2
      exit 1
    }
    ;;
  *) echo "usage: charts/manifest.sh [--check]" >&2; exit 64 ;;
esac
