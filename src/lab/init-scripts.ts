/**
 * What runs as first processes in L0 and L1 (busybox sh): /init of the small initramfs, which finds the base image,
 * and the base image's own set-up. One text for both levels; `hyperturtle.level=N` on the command line tells them
 * apart. Nothing here polls forever: a level at rest halts, or no snapshot of it could be taken.
 */
import { IN_GUEST, L1_SCRIPT_FW_CFG } from './artifacts.ts';
import type { KernelFlavor } from './kernel-name.ts';

/** Loaded by /init, before any of our file systems: disks, channels, the base image. */
export const BOOT_MODULES = ['virtio_pci', 'virtio_blk', 'virtio_console', 'erofs', 'overlay'];

/** The same for the machine of an emulator without virtio: its disks are ATA, its channels serial ports. */
export const ATA_BOOT_MODULES = ['ata_piix', 'sd_mod', 'erofs', 'overlay'];

/** Must be in the base image (or built in). */
export const BASE_MODULES = [
  'kvm',
  'kvm_amd',
  'kvm_intel',
  'qemu_fw_cfg',
  'virtio_net',
  'tun',
  ...BOOT_MODULES,
];

/** What c/redelivery becomes: QEMU's emulated AMD processor needs it where it runs VMs, so L0 alone. */
export const REDELIVERY = 'hyperturtle_redelivery';

/** Taken along where the kernel has them: network paths and devices that hyperupcalls work on. */
export const EXTRA_MODULES = [
  ...[
    'vfio_pci',
    'vfio_iommu_type1',
    'vhost_net',
    'vhost_vsock',
    'vmw_vsock_virtio_transport',
    'virtio_balloon',
  ],
  ...[
    'virtio_mem',
    'virtio_rng',
    'virtio_input',
    'virtiofs',
    'fuse',
    'loop',
    'ext4',
    'squashfs',
    'tap',
    'macvtap',
  ],
  ...[
    'macvlan',
    'veth',
    'bridge',
    'br_netfilter',
    'dummy',
    'ifb',
    'vxlan',
    'sch_ingress',
    'sch_fq',
    'sch_htb',
    'cls_bpf',
  ],
  ...[
    'cls_flower',
    'cls_matchall',
    'act_bpf',
    'act_mirred',
    'act_gact',
    'msr',
    'cpuid',
    'e1000',
    '9p',
    '9pnet_virtio',
  ],
  ...[
    'nf_tables',
    'nft_chain_nat',
    'nft_masq',
    'nf_conntrack',
    'vdpa',
    'vhost_vdpa',
    'virtio_vdpa',
    'vdpa_sim',
  ],
];

/** The block device that `scsi:HOST:CHANNEL:TARGET:LUN` has, any other name as it is. Shell. */
const DISK_OF = `disk_of() {
  case $1 in
    scsi:*) for b in "/sys/bus/scsi/devices/\${1#scsi:}/block/"*; do echo "/dev/\${b##*/}"; done;;
    *) echo "$1";;
  esac
}`;

/** /init of the initramfs: from here to the base image. `order` is the list of module files in load order. */
export const INITRAMFS_INIT = `#!/bin/sh
# from the initramfs to the base image on the first disk, with a tmpfs over it
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
fail() { echo "### boot failed: $1" > /dev/console; poweroff -f; }
${DISK_OF}
base=${IN_GUEST.base} others=
read -r cmdline < /proc/cmdline
for a in $cmdline; do case $a in
  hyperturtle.base=*) base=\${a#*=};;
  hyperturtle.payload=*|hyperturtle.l1=*) others="$others \${a#*=}";;
esac; done
while read -r m; do insmod "/modules/$m" || fail "module $m"; done < /modules/order
for d in $base $others; do
  n=0
  while [ ! -b "$(disk_of "$d")" ]; do
    n=$((n + 1)); [ $n -gt 200 ] && fail "no disk $d"
    sleep 0.05
  done
done
base=$(disk_of "$base")
mount -t erofs -o ro $base /lower || fail "no erofs image on $base"
mount -t tmpfs -o size=50% rw /rw
mkdir -p /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root || fail "no overlay"
for d in dev proc sys; do mount --move /$d /root/$d; done
exec switch_root /root /sbin/init
`;

export const INITTAB = `::sysinit:/usr/sbin/lab-boot
::respawn:/usr/sbin/lab-agent
::ctrlaltdel:/usr/bin/busybox poweroff -f
::shutdown:/usr/bin/busybox sync
`;

/** Set-up of a level; init waits for it before it starts the agent. */
export const LAB_BOOT = `#!/bin/sh
export PATH=/usr/sbin:/usr/bin
${DISK_OF}
level=0
base=${IN_GUEST.base} payload=${IN_GUEST.payloadDisk} serial_ports= l1_script_disk=
for a in $(cat /proc/cmdline); do case $a in
  hyperturtle.level=*) level=\${a#*=};;
  hyperturtle.base=*) base=\${a#*=};;
  hyperturtle.payload=*) payload=\${a#*=};;
  hyperturtle.ports=*) serial_ports=\${a#*=};;
  hyperturtle.l1=*) l1_script_disk=\${a#*=};;
esac; done
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts devpts /dev/pts
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname "l$level"
echo "$level" > /run/level
ip link set lo up
# a hung kernel is reported, a slow emulator is not
echo 60 > /proc/sys/kernel/watchdog_thresh
if grep -qw svm /proc/cpuinfo; then
  if [ "$level" = 0 ]; then modprobe kvm_amd nested=1; else modprobe kvm_amd; fi
  if [ "$level" = 0 ] && grep -q 'QEMU TCG' /proc/cpuinfo; then modprobe ${REDELIVERY}; fi
elif grep -qw vmx /proc/cpuinfo; then
  if [ "$level" = 0 ]; then modprobe kvm_intel nested=1; else modprobe kvm_intel; fi
fi
modprobe tun
# the disks go by one pair of names, whatever they are behind
[ -e ${IN_GUEST.base} ] || ln -s "$(disk_of "$base")" ${IN_GUEST.base}
[ -e ${IN_GUEST.payloadDisk} ] || ln -s "$(disk_of "$payload")" ${IN_GUEST.payloadDisk}
# udev's work: ports by name
mkdir -p /dev/virtio-ports
for p in /sys/class/virtio-ports/*; do
  [ -r "$p/name" ] && ln -s "/dev/\${p##*/}" "/dev/virtio-ports/$(cat "$p/name")"
done
# where the machine has no virtio, serial ports under the same names: ttyS1:NAME,ttyS2:NAME
for p in $(echo "$serial_ports" | tr , ' '); do
  # An interrupt for each byte, and that before the port is opened the first time: with more, Bochs has a timer for what
  # is left over, and one that is pending when the port is closed holds the interrupt line forever. Room for 16 bytes:
  # the echo is the flow control
  echo 1 > "/sys/class/tty/\${p%%:*}/rx_trig_bytes"
  stty -F "/dev/\${p%%:*}" 38400 raw echo -echoctl
  ln -s "/dev/\${p%%:*}" "/dev/virtio-ports/\${p#*:}"
done
if [ "$level" = 0 ]; then
  mkdir -p /run/l1
  if [ "$l1_script_disk" ]; then
    tr -d '\\0' < "$(disk_of "$l1_script_disk")" > /run/l1/start.sh
  else
    modprobe qemu_fw_cfg
    script=/sys/firmware/qemu_fw_cfg/by_name/${L1_SCRIPT_FW_CFG}/raw
    [ -r "$script" ] && cat "$script" > /run/l1/start.sh
  fi
  if [ -s /run/l1/start.sh ]; then
    setsid sh /run/l1/start.sh > /run/l1/log 2>&1 < /dev/null &
  fi
fi
read -r up _ < /proc/uptime
echo "### L$level up $up" > /dev/console
`;

/** The stock guest agent on its port. Respawned by init, so that a dead one is not the end of the channel. */
export const LAB_AGENT = `#!/bin/sh
export PATH=/payload/bin:/usr/sbin:/usr/bin HOME=/root LC_ALL=C
port=/dev/virtio-ports/org.qemu.guest_agent.0
[ -e "$port" ] || exec sleep 3600
case $(readlink "$port") in
  /dev/ttyS*)
    method=isa-serial
    # the agent turns the echo off when it opens the port
    for i in 1 2 3 4 5; do sleep 1; stty -F "$port" echo -echoctl; done &;;
  *) method=virtio-serial;;
esac
exec qemu-ga -m $method -p "$port" -t /run -l /run/qemu-ga.log
`;

/**
 * Kernel arguments that make a level boot fast under emulation: nothing measured at boot, no random start addresses,
 * no mitigations for hardware that is not there. `panic=-1` with QEMU's -no-reboot ends the machine.
 */
export function kernelArgs(level: 0 | 1 | 2, flavor?: KernelFlavor): string {
  return [
    // a report also reaches the console, where it outlives a level that ends
    ...[
      flavor === undefined ? 'quiet' : 'loglevel=5',
      'panic=-1',
      'nokaslr',
      'mitigations=off',
      'no_timer_check',
      'tsc=reliable',
    ],
    ...['random.trust_cpu=on', 'init_on_alloc=0', 'cryptomgr.notests', 'audit=0'],
    // L1 gives NICs to its guests; its own devices stay untranslated
    ...(level === 1 ? ['intel_iommu=on', 'iommu=pt'] : []),
    // every report, not only the first
    ...(flavor === 'debug' ? ['kasan_multi_shot'] : []),
    `hyperturtle.level=${level}`,
  ].join(' ');
}
