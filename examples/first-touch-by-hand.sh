#!/bin/sh
# What `hyperturtle bench npf` does, by hand: a lab, the hyperupcall, one accelerated L2, first touches in it.
# Run from the repository after `npm run build`. Takes about two minutes; leaves nothing behind.
set -eu
ht() { node "$(dirname "$0")/../dist/src/cli/main.js" "$@"; }
lab=example-$$
l0() { ht lab exec --name "$lab" --level 0 -- "$@"; }
l1() { ht lab exec --name "$lab" --level 1 -- "$@"; }

ht lab up --name "$lab"
trap 'ht lab down --name "$lab"' EXIT

# L0: the module, and a process that owns arena, program and link of the VM that is L1
l0 insmod /payload/modules/hyperturtle_host.ko
l0 sh -c 'setsid hyperturtle host attach --qmp /run/l1/qmp.sock --program /payload/bpf/npf.bpf.o \
	--bus arena0 >/run/attach.log 2>&1 </dev/null &
	until grep -q ready /run/attach.log; do sleep 1; done'

# L1: the module and its file system, and an L2 whose RAM is a file there
l1 sh -c 'insmod /payload/modules/hyperturtle_guest.ko
	mkdir -p /run/hyperturtle/ram && mount -t turtlefs none /run/hyperturtle/ram'
l1 sh -c 'setsid hyperturtle guest l2 run --name demo --ram turtlefs --mem-mib 256 \
	--port /dev/virtio-ports/org.hyperturtle.lab.l2.0 --append "console=ttyS0 quiet" >/run/l2.log 2>&1 </dev/null &
	until grep -q \"up\" /run/l2.log; do sleep 2; done; cat /run/l2.log'

# L2: 32 MiB, page by page
ht lab exec --name "$lab" --level 2 --l2 0 -- first_touch 32 seq random
l0 hyperturtle host stats --qmp /run/l1/qmp.sock
l1 hyperturtle guest status
