#!/usr/bin/env bash
# A run on a spot slice of TPUs, which may be taken away at any time: a queued resource waits for the slice, and one that
# was taken away is asked for again. Without --spot it is a slice on demand.
#
#   WORKDIR=gs://BUCKET/imagenet64 DATA=/mnt/data ZONE=us-east5-b TYPE=v6e-16 VERSION=v2-alpha-tpuv6e examples/tpu_spot.sh
#
# It runs wherever gcloud does, and started again it goes on with the resource that it finds. Arguments are those of
# train.py. What each host prints is in logs/NAME.TIME/HOST.log. It ends with 1 if a person must mend something, such as a
# request that is refused or a slice that could not be given back.
set -u
name=${NAME:-$(basename "$WORKDIR")} queued="gcloud compute tpus queued-resources"
setup="[ -d ddpm_jax ] || git clone -q https://github.com/ddpm-jax/ddpm_jax; cd ddpm_jax && pip install -q -r requirements.txt -r requirements/tpu.txt -r requirements/gcs.txt"
passing="UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|INTERNAL|ALREADY_EXISTS|[Cc]onnect|[Tt]ime(d )?out" # errors that may pass
train="python train.py --distributed --config=configs/imagenet64.py --config.data.path=$DATA --workdir=$WORKDIR $*"

for ((turn = 1; turn <= ${MOST:-10000}; turn++)); do
  if ! state=$($queued describe "$name" --zone="$ZONE" --format="value(state.state)" 2>&1); then
    if [[ $state == *NOT_FOUND* ]]; then state=ABSENT; fi
  fi
  echo "$(date +%FT%T) $name: $state"
  case $state in
    ABSENT)
      if ! said=$($queued create "$name" --node-id="$name" --zone="$ZONE" --accelerator-type="$TYPE" --runtime-version="$VERSION" --spot 2>&1); then
        echo "$said" >&2
        if [[ ! $said =~ $passing ]]; then exit 1; fi
      fi ;;
    SUSPENDED | FAILED)
      $queued delete "$name" --zone="$ZONE" --force --quiet ;;
    ACTIVE)
      mkdir -p logs
      logs=$(mktemp -d "logs/$name.$(date +%FT%H%M%S).XXX")
      # The code of gcloud is not that of the hosts, so each of them says its own. A failed setup says none, and is done again.
      gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --worker=all --output-directory="$logs" \
        --command="{ $setup; } && { $train; echo ended with code \$?; }"
      if grep -qsx "ended with code 1" "$logs"/*.log; then exit 1; fi # a person must mend something: the slice is kept
      if grep -qsx "ended with code 0" "$logs"/*.log; then
        delete="$queued delete $name --zone=$ZONE --force --quiet"
        if $delete; then exit 0; fi
        echo "error: the run is done, but its slice was not given back and costs money: repeat $delete" >&2
        exit 1
      fi ;;
  esac
  sleep "${PAUSE:-60}"
done
exit 75
