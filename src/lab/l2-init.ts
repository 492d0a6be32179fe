/**
 * What runs as /init in an L2: a busybox shell that loads the few modules it needs, opens its virtio-serial port
 * and runs the commands that come over it. Nothing here polls once the port is open: an idle L2 makes no exits.
 *
 * Protocol, one line each way (the client is src/lab/l2-shell.ts):
 *   L2 -> `### L2 up UPTIME`                once, when userspace is up; opening the port just before makes the
 *                                           VMM send VSERPORT_CHANGE, which is where boot times are taken
 *   -> L2 `run ID COMMAND`                  COMMAND goes to `sh -c`, with the port as stdin, stdout and stderr
 *   L2 -> output, then `### done ID STATUS`
 */

/** Modules in the order of loading; those built into the kernel in use are left out of the image. */
export const L2_MODULES: readonly string[] = [
  'virtio_ring',
  'virtio',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'virtio_console',
];

/** Loaded by l2-net when somebody wants a NIC: an L2 without one is not to boot slower for them. */
export const L2_NET_MODULES: readonly string[] = ['virtio_net'];

/** In an archive of its own, /payload/l2/plug.cpio, for an L2 that is to have memory plugged. */
export const L2_PLUG_MODULES: readonly string[] = ['virtio_mem'];

/** Symbolic links to busybox in /bin of the image. */
export const L2_APPLETS: readonly string[] = [
  'sh',
  'mount',
  'insmod',
  'usleep',
  'sleep',
  'cat',
  'dmesg',
  'grep',
  'head',
  'tail',
  'free',
  'ps',
  'kill',
  'dd',
  'sync',
  'poweroff',
  'ip',
  'ping',
];

/** The first port of the first virtio-serial device. It must have a name. */
const L2_PORT = 'vport0p1';

/**
 * Text of /init. `modules`: paths in the image, in the order of loading. The image needs /bin/busybox with the
 * links above, and empty directories /dev, /proc, /sys, /tmp.
 */
export function l2Init(modules: readonly string[]): string {
  return `#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec </dev/null >/dev/kmsg 2>&1
export PATH=/bin
${modules.map((m) => `insmod ${m}`).join('\n')}
# the node appears before the port can be opened, its name after
until read -r name </sys/class/virtio-ports/${L2_PORT}/name; do usleep 2000; done 2>/dev/null
exec 3<>/dev/${L2_PORT}
read -r up idle </proc/uptime
echo "### L2 up $up" >&3
while :; do
	# end of file: nobody listens at the other end for now
	read -r line <&3 || { sleep 1; continue; }
	case "$line" in
	'run '*)
		line=\${line#run }
		sh -c "\${line#* }" <&3 >&3 2>&1
		echo "### done \${line%% *} $?" >&3
		;;
	esac
done
`;
}

/** Text of /bin/l2-net, which gives NICs their addresses. They are told apart by MAC: names follow the PCI slots. */
export function l2Net(modules: readonly string[]): string {
  return `#!/bin/sh
# l2-net MAC ADDRESS/PREFIX ...
[ -d /sys/module/virtio_net ] || for m in ${modules.join(' ')}; do insmod $m || exit 1; done
ip link set lo up
# a NIC that was just plugged in takes a moment
waited=0
while [ $# -ge 2 ]; do
	found=
	for d in /sys/class/net/*; do
		[ "$(cat $d/address)" = "$1" ] || continue
		found=\${d##*/}
		ip address add $2 dev $found && ip link set $found up || exit 1
	done
	if [ ! "$found" ]; then
		waited=$((waited + 1)); [ $waited -gt 300 ] && { echo "no NIC $1"; exit 1; }
		usleep 100000; continue
	fi
	shift 2
done
`;
}
