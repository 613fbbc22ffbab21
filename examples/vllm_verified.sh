#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Serve a model with vLLM from verified bytes only.
#
#     examples/vllm_verified.sh MODEL_DIR PUBLIC_KEY [options of vllm serve]
#
# Needs vllm, and this package in the same environment: vLLM finds the load format by its entry point. The key must not
# lie in MODEL_DIR, and the signature must: model.sig, as `sentry sign MODEL_DIR` leaves it there.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 MODEL_DIR PUBLIC_KEY [options of vllm serve]" >&2
  exit 2
fi
model=$1 key=$(realpath "$2")
shift 2

# vLLM reads configuration, tokenizer and code by their paths: give it a copy in which these have been verified, in a
# directory that only you can enter. It is verified while it is copied, and there is none if it is not what was signed.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sentry materialize "$model" "$folder/model" --key "$key"

# The weights are verified again, in the memory from which the model takes them. Nothing is fetched from a hub.
HF_HUB_OFFLINE=1 vllm serve "$folder/model" --load-format sentry \
  --model-loader-extra-config "{\"key\": \"$key\"}" "$@"
