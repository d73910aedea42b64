# For the scripts beside it, which run in this folder.

release=whichpod

# Helm, as the cluster tests build it into the cache, else the one in PATH.
helm() {
  local found cache="${WHICHPOD_CACHE:-$HOME/.cache/whichpod}"
  for found in "$cache"/helm-v* "$(type -P helm || true)"; do
    [ -x "$found" ] && { "$found" "$@"; return; }
  done
  echo "there is no helm: install it, or run: cargo run -p whichpod-cluster -- build" >&2
  return 69
}

# The chart as text; $1 is the namespace, the rest are values and other flags.
render() { helm template "$release" whichpod --kube-version 1.35 --namespace "$@"; }

# The webhook that WHICHPOD_WEBHOOK names, else one that is built now: its path.
webhook_binary() {
  [ -z "${WHICHPOD_WEBHOOK:-}" ] || { realpath "$WHICHPOD_WEBHOOK"; return; }
  (cd .. && cargo build --quiet --locked --package whichpod-webhook && realpath "${CARGO_TARGET_DIR:-target}/debug/whichpod-webhook")
}

# Reads the rendered Deployment and prints the arguments of the webhook, a line each.
webhook_arguments() { sed -n '/^ *args:/,/^ *ports:/s/^ *- //p' | sed -E "s/^[\"'](.*)[\"']$/\1/"; }

failed=0
passed=0
ok() { passed=$((passed + 1)); }
bad() {
  printf 'FAILED: %s\n' "$1"
  [ -z "${2:-}" ] || printf '%s\n' "$2" | sed 's/^/    /'
  failed=$((failed + 1))
}
finish() {
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ]
}
