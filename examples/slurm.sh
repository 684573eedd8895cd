#!/usr/bin/env bash
# A run on four nodes of eight GPUs, through time limits, preemptions and lost nodes: sbatch examples/slurm.sh
#SBATCH --job-name=imagenet64
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300    # five minutes before the limit every task gets SIGTERM, saves its step and ends with 75
#SBATCH --requeue            # Slurm may put the job back into the queue, and does so after a preemption or a lost node
#SBATCH --open-mode=append   # all starts write to one file
#SBATCH --output=%x.log
trap : TERM # this shell waits for srun, and each of those below for its task


# srun ends with the highest code of all tasks, so the one that asks for a person, 1, becomes the highest that there is. The
# tasks find each other, and end by themselves when one of them is lost. --label puts the number of its task before a line.
srun --label --kill-on-bad-exit=0 bash -c 'trap : TERM; "$@"; code=$?; exit $((code == 1 ? 255 : code))' task \
  python train.py --config=configs/imagenet64.py --config.data.path="${DATA:-data}" --workdir="${WORKDIR:-runs/imagenet64}" "$@"
code=$?
case $code in 0 | 130) exit $code ;; 255) exit 1 ;; esac
if ((${SLURM_RESTART_COUNT:-0} < 100)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
