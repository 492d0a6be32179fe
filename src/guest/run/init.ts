/**
 * What runs first in a guest of `hyperturtle run` (busybox sh): from the initramfs to the image with a tmpfs over it,
 * the network, the command, and its exit status.
 *
 * On the status port, one line each, times in milliseconds since the guest's kernel began:
 *   ### up T            userspace runs; opening the port just before makes QEMU send VSERPORT_CHANGE
 *   ### open T          the service's port is open        (by answer_probe, when asked for)
 *   ### answered T      it gave the right answer
 *   ### failed TEXT     the command could not be started
 *   ### exit STATUS     the command's
 */
import { STATUS_PORT } from './spec.ts';
import type { RootFileSystem } from './spec.ts';

export interface GuestSettings {
  rootType: RootFileSystem;
  hostname: string;
  /** `none`: leave the device alone; `up`; `dhcp`; or ADDRESS/LENGTH. */
  address: string;
  gateway?: string | undefined;
  /** There is a network device to wait for: its driver may take a moment. */
  nic?: boolean;
  terminal: boolean;
  env: readonly string[];
  command: readonly string[];
  /** Absolute, of the image; default: its root. */
  workingDir?: string;
  /** Default: root. */
  user?: { uid: number; gid: number; home: string };
  /** There is a status port to tell of each step; else the guest ends by itself when the command does. */
  status: boolean;
  service?: { port: number; send: string; expect: string } | undefined;
}

export const INIT_APPLETS = [
  ...[
    'sh',
    'mount',
    'insmod',
    'mkdir',
    'usleep',
    'sleep',
    'cat',
    'ls',
    'poweroff',
    'reboot',
    'setsid',
    'stty',
    'env',
  ],
  ...['chroot', 'nsenter', 'chown', 'ifconfig', 'ip', 'route', 'udhcpc', 'hostname', 'awk', 'sync'],
] as const;

const word = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** The file that /init reads: shell variables. */
export function settingsScript(s: GuestSettings): string {
  const values = {
    ROOT_TYPE: s.rootType,
    HOSTNAME: s.hostname,
    ADDRESS: s.address,
    GATEWAY: s.gateway ?? '',
    NIC: s.nic ? '1' : '',
    STATUS: s.status ? '1' : '',
    TTY: s.terminal ? '1' : '',
    SERVICE: s.service === undefined ? '' : `${s.service.port} ${s.service.send} ${s.service.expect}`,
  };
  return Object.entries(values)
    .map(([k, v]) => `${k}=${word(v)}\n`)
    .join('');
}

/** Starts the command inside of the image, with nothing of HyperTurtle in its environment. */
export function commandScript(s: GuestSettings): string {
  const { user, workingDir = '/' } = s;
  const env = [
    'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    `HOME=${user?.home ?? '/root'}`,
    ...(s.terminal ? ['TERM=linux'] : []),
    ...s.env,
  ];
  // into no namespace: busybox's chroot knows neither directory nor user
  const enter =
    user === undefined && workingDir === '/'
      ? ['/bin/chroot', '/root']
      : ['/bin/nsenter', '-F', '-r/root', `-w/root${workingDir}`, ...idsOf(user)];
  const words = ['env', '-i', ...env, ...enter, ...s.command].map(word);
  // a program that is not root's opens its output again by /dev/stdout
  const own = user === undefined || user.uid === 0 ? '' : `chown ${user.uid} /dev/hvc0\n`;
  return `${own}exec ${words.join(' ')}\n`;
}

function idsOf(user: GuestSettings['user']): string[] {
  return user === undefined ? [] : ['-G', String(user.gid), '-S', String(user.uid)];
}

export const RUN_INIT = `#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec </dev/null >/dev/kmsg 2>&1
end() {
	[ -n "$STATUS" ] || reboot -f
	sleep 3600
}
fail() {
	echo "hyperturtle: $1" >/dev/hvc0
	echo "### failed $1" >&3
	end
}
while read -r m; do insmod "/modules/$m"; done </modules/order
. /hyperturtle/settings
port=
[ -n "$STATUS" ] || port=/dev/null
n=0
while [ -z "$port" ]; do
	for p in /sys/class/virtio-ports/*; do
		name=
		read -r name <"$p/name"
		[ "$name" = ${STATUS_PORT} ] && port=/dev/\${p##*/}
	done
	[ -n "$port" ] || usleep 2000
	n=$((n + 1)); [ $n -gt 5000 ] && poweroff -f
done 2>/dev/null
until { exec 3<>"$port"; } 2>/dev/null; do usleep 2000; done
read -r up _ </proc/uptime
echo "### up \${up%.*}\${up#*.}0" >&3
until [ -b /dev/vda ]; do usleep 2000; done
mount -t "$ROOT_TYPE" -o ro /dev/vda /lower || fail "the image is no $ROOT_TYPE file system"
mount -t tmpfs -o mode=755 rw /rw
mkdir -p /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /root || fail 'no overlay over the image'
cd /root && mkdir -p dev proc sys run tmp dev || fail 'the image cannot be prepared'
cd /
for d in dev proc sys; do mount --bind /$d /root/$d; done
mount -t tmpfs -o mode=755 run /root/run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount --bind /dev/pts /root/dev/pts
mount --bind /dev/shm /root/dev/shm
hostname "$HOSTNAME"
ifconfig lo 127.0.0.1 up
n=0
while
	device=
	for d in /sys/class/net/*; do [ "\${d##*/}" = lo ] || device=\${d##*/}; done
	[ -n "$NIC" ] && [ -z "$device" ]
do
	n=$((n + 1)); [ $n -gt 3000 ] && fail 'no network device appeared'
	usleep 20000
done
if [ -n "$device" ] && [ "$ADDRESS" != none ]; then
	ip link set "$device" up
	case "$ADDRESS" in
	up) ;;
	dhcp) udhcpc -n -q -t 5 -T 2 -i "$device" -s /hyperturtle/udhcpc || fail 'no answer to DHCP' ;;
	*) ip address add "$ADDRESS" dev "$device" ;;
	esac
	[ -z "$GATEWAY" ] || ip route add default via "$GATEWAY"
fi
[ -z "$SERVICE" ] || /bin/answer_probe $SERVICE </dev/null >&3 3>&- &
# open to the end: the console forgets its settings when nobody has it open
exec 4<>/dev/hvc0
if [ -n "$TTY" ]; then
	setsid -c sh /hyperturtle/command <&4 >&4 2>&1 3>&- 4>&-
else
	stty -opost -echo <&4
	sh /hyperturtle/command </dev/null >&4 2>&1 3>&- 4>&-
fi
status=$?
# returns when all output is out
stty opost <&4
echo "### exit $status" >&3
end
`;

/** Script that udhcpc runs when it has an address. */
export const UDHCPC_SCRIPT = `#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip address add "$ip/\${mask:-24}" dev "$interface"
for r in $router; do ip route add default via "$r" dev "$interface"; break; done
[ -z "$dns" ] || { mkdir -p /root/etc; for d in $dns; do echo "nameserver $d"; done >/root/etc/resolv.conf; }
`;
