#!/usr/bin/env bash
# A whole Slurm on this machine alone, for trying things out and for the tests: its own folder, ports and munge key,
# no accounting, nothing in /etc. As root, or as any user (then for that user's jobs alone).
#
#   deploy/slurm/one-node.sh up DIR [CPUS]   start it; prints the line that points Slurm's commands at it
#   deploy/slurm/one-node.sh down DIR        end its jobs and its daemons; the folder stays
#
# Needs Debian's slurm-wlm and munge. A second run takes another DIR, and finds ports of its own.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
host=$(hostname -s)

free_ports() { # that many different free ports
    python3 - "$1" <<'PYTHON'
import socket, sys
taken = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in taken:
    one.bind(("", 0))
print(*(one.getsockname()[1] for one in taken))
PYTHON
}

configure() {
    local cpus=$1 controller node memory
    read -r controller node <<<"$(free_ports 2)"
    memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    # Trying things out means waiting less: no delay between a requeue and the next start (cred_expire), scheduling at
    # once. The nodes of the partition `wide` do not exist: they make a cluster of several machines to be refused.
    cat >"$dir/slurm.conf" <<CONF
ClusterName=qsweep
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=200000,bf_interval=2,max_array_tasks=${MAX_ARRAY_TASKS:-1000}
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=300
MaxArraySize=${MAX_ARRAY_SIZE:-1001}
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
NodeName=far[1-2] NodeAddr=127.0.0.1 CPUs=64 Gres=gpu:4 State=DOWN Reason=imaginary
PartitionName=main Nodes=$host Default=YES MaxTime=7-0 DefaultTime=1-0 State=UP OverSubscribe=NO
PartitionName=wide Nodes=$host,far[1-2] MaxTime=1-0 State=UP
CONF
}

start() {
    mkdir -p "$dir/state" "$dir/spool" "$dir/munge"
    chmod 0755 "$dir/munge"
    # 1024 random bytes that only this Slurm knows.
    (umask 077 && dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 status=none)
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
        --seed-file="$dir/munge/seed" --log-file="$dir/munge/log"
    export SLURM_CONF="$dir/slurm.conf"
    slurmctld -c -f "$dir/slurm.conf"
    slurmd -f "$dir/slurm.conf" -N "$host"
    for _ in $(seq 600); do
        if [ "$(sinfo --noheader --nodes="$host" --partition=main --format=%T 2>/dev/null)" = idle ]; then
            echo "export SLURM_CONF=$dir/slurm.conf"
            return
        fi
        sleep 0.1
    done
    echo "Slurm did not come up; see $dir/slurmctld.log and $dir/slurmd.log" >&2
    stop
    exit 1
}

stop() {
    if [ -f "$dir/slurm.conf" ]; then
        SLURM_CONF="$dir/slurm.conf" timeout 10 scancel --full --signal=KILL --state=RUNNING --user="$(id -un)" 2>/dev/null || true
        SLURM_CONF="$dir/slurm.conf" timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    fi
    for file in slurmd.pid slurmctld.pid munge/pid; do
        [ -f "$dir/$file" ] || continue
        pid=$(cat "$dir/$file")
        rm -f "$dir/$file"
        ours "$pid" || continue
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do ours "$pid" || break; sleep 0.1; done
        if ours "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
}

ours() { # whether this number still is a daemon of this folder: numbers are given away again
    [ -r "/proc/$1/cmdline" ] && tr '\0' ' ' <"/proc/$1/cmdline" | grep -qF -- "$dir/"
}

case $command in
up) configure "${3:-$(getconf _NPROCESSORS_ONLN)}" && start ;;
down) stop ;;
*) usage ;;
esac
