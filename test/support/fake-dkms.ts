/** A dkms of the test's, which keeps what it has in a directory and behaves as dkms 3 does where installation depends on it. */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** `D`: where it keeps all; `R`: the machine's root. A source whose host/main.c says BROKEN does not compile. */
const SCRIPT = `#!/bin/sh
echo "$*" >>"$D/asked"
action=$1 v=\${2#hyperturtle/} k= all= force=
[ $# -lt 2 ] || shift 2
while [ $# -gt 0 ]; do
  case $1 in -k) k=$2; shift ;; --all) all=1 ;; --force) force=1 ;; esac
  shift
done
src=$R/usr/src/hyperturtle-$v t=$D/tree/$v
kernels() { ls "$t" | grep -v '^build$'; }
broken() { [ -d "$t" ] && [ ! -d "$src" ]; }
active() { [ "$(cat "$D/active-$1" 2>/dev/null)" = "$v" ]; }
uninstall() { if active "$1"; then rm -f "$D/active-$1" "$D/lib-$1"; fi; }
case $action in
status)
  for t in "$D"/tree/*/; do
    [ -d "$t" ] || continue
    v=$(basename "$t") src=$R/usr/src/hyperturtle-$(basename "$t")
    if broken; then echo "hyperturtle/$v: broken"; continue; fi
    [ -n "$(kernels)" ] || echo "hyperturtle/$v: added"
    for k in $(kernels); do
      if active "$k"; then echo "hyperturtle/$v, $k, x86_64: installed"; else echo "hyperturtle/$v, $k, x86_64: built"; fi
    done
  done ;;
install)
  if broken; then echo 'Error! it is broken' >&2; exit 4; fi
  mkdir -p "$t"
  if [ ! -d "$t/$k" ]; then
    if grep -q BROKEN "$src/host/main.c" || [ -e "$D/fails-$k" ]; then echo 'Error! Bad return status' >&2; exit 10; fi
    mkdir "$t/$k" && cp "$src/host/main.c" "$t/$k/module"
  fi
  if active "$k"; then [ -n "$force" ] || exit 0; uninstall "$k"; fi
  if [ -z "$force" ] && cmp -s "$t/$k/module" "$D/lib-$k"; then echo 'Error! Installation aborted.' >&2; exit 6; fi
  cp "$t/$k/module" "$D/lib-$k" && echo "$v" >"$D/active-$k" ;;
remove)
  if broken; then echo 'Error! it is broken' >&2; exit 4; fi
  if [ ! -d "$t" ]; then echo 'Error! not in the tree' >&2; exit 3; fi
  for k in \${k:-$(kernels)}; do uninstall "$k"; rm -rf "\${t:?}/$k"; done
  [ -n "$(kernels)" ] || rm -rf "$t" ;;
esac
`;

export class FakeDkms {
  readonly #dir: string;
  /** For the PATH and the script. */
  readonly env: Readonly<Record<string, string>>;

  constructor(dir: string, root: string) {
    this.#dir = dir;
    mkdirSync(path.join(dir, 'bin'), { recursive: true });
    mkdirSync(path.join(dir, 'tree'));
    writeFileSync(path.join(dir, 'bin/dkms'), SCRIPT);
    chmodSync(path.join(dir, 'bin/dkms'), 0o755);
    this.env = { D: dir, R: root, PATH: `${path.join(dir, 'bin')}:${process.env['PATH'] ?? ''}` };
  }

  /** The module that this kernel would load: what its source was. */
  installed(kernel: string): string | undefined {
    const file = path.join(this.#dir, `lib-${kernel}`);
    return existsSync(file) ? readFileSync(file, 'utf8') : undefined;
  }

  /** Nothing compiles for this kernel. */
  failFor(kernel: string): void {
    writeFileSync(path.join(this.#dir, `fails-${kernel}`), '');
  }

  /** Commands since the last time, but for `status`. */
  asked(): string[] {
    const file = path.join(this.#dir, 'asked');
    const lines = existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
    writeFileSync(file, '');
    return lines.filter((l) => l !== '' && !l.startsWith('status'));
  }
}
