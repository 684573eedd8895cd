#!/usr/bin/env bash
# Starts a command again until it is done:
#
#   examples/loop.sh python train.py --config=configs/cifar10.py --workdir=runs/cifar10
#
# It ends with the code of the command: 0 when all is done, 1 when a person must mend something, 130 after Ctrl-C. SIGTERM
# and Ctrl-C are passed on, and nothing is started after them. MOST is the number of starts, PAUSE the seconds between two.
set -m # the command has a process group of its own, so that a signal reaches it once
command='' stopped=''
trap 'stopped=1; kill -TERM $command 2>/dev/null' TERM
trap 'stopped=1; kill -INT $command 2>/dev/null' INT

for ((start = 1; ; start++)); do
  "$@" &
  command=$!
  while kill -0 $command 2>/dev/null; do wait $command; done # a signal ends `wait` before the command ends
  wait $command
  code=$?
  case $code in 0 | 1 | 130) exit $code ;; esac
  if [[ -n $stopped ]] || ((start >= ${MOST:-100})); then exit $code; fi
  echo "start $start ended with code $code: again in ${PAUSE:-10} s" >&2
  for ((left = ${PAUSE:-10}; left > 0; left--)); do # second by second: a signal just before `wait` does not end it
    if [[ -n $stopped ]]; then exit $code; fi
    sleep 1 &
    wait $!
  done
  if [[ -n $stopped ]]; then exit $code; fi
done
