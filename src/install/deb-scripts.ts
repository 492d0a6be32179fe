/** What dpkg runs at installation and removal. A service that runs is restarted by an upgrade: VMs never notice. */

const UNITS = 'hyperturtled.service hyperturtle-agent.service';

export const POSTINST = `#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  udevadm control --reload || true
  # no first start: which of the two this machine needs is its owner's to say
  if [ -n "$2" ]; then systemctl try-restart ${UNITS} || true; fi
fi
`;

export const PRERM = `#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl disable --now ${UNITS} || true
fi
`;

export const POSTRM = `#!/bin/sh
set -e
if [ "$1" = purge ]; then rm -rf /var/lib/hyperturtle; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
`;

/** Debian's own script for dkms packages does the rest. A build that fails is told, and leaves the package configured. */
export function dkmsPostinst(version: string): string {
  return `#!/bin/sh
set -e
if [ "$1" = configure ]; then
  status=0
  output=$(/usr/lib/dkms/common.postinst hyperturtle ${version} /usr/share/hyperturtle-dkms "" "$2" 2>&1) || status=$?
  printf '%s\\n' "$output"
  if [ $status != 0 ]; then
    # it stops at the first kernel that fails: not always the one that runs
    kernel=$(printf '%s\\n' "$output" | sed -n '
      s/^Building initial module for \\([^ ]*\\).*/\\1/p
      s/.* for kernel \\([0-9][^ ]*\\) (.*/\\1/p' | tail -n 1)
    sh /usr/src/hyperturtle-${version}/why-not-built "\${kernel:-$(uname -r)}" $status "$output"
  fi
fi
`;
}

export function dkmsPrerm(version: string): string {
  return `#!/bin/sh
set -e
case "$1" in
  remove|upgrade|deconfigure)
    if dkms status -m hyperturtle -v ${version} | grep -q .; then dkms remove -m hyperturtle -v ${version} --all; fi
    ;;
esac
`;
}

/** Each with its reason. */
export const OVERRIDES = [
  '# the packed dependencies are those that the tests ran with, pinned exactly',
  'hyperturtle: embedded-javascript-library *',
  '# eBPF programs, for the machine in the kernel',
  'hyperturtle: binary-from-other-architecture [usr/lib/hyperturtle/*.bpf.o]',
  '# stops both and forgets that they were enabled, which deb-systemd-invoke does not',
  'hyperturtle: maintainer-script-calls-systemctl [prerm:*]',
];
