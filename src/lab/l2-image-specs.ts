/**
 * Root file systems for nested guests, as data: Debian packages, the few files that their maintainer scripts or an
 * administrator would write, and the service that each one is. None of it is fetched before somebody wants it.
 */
import type { ImageAbout } from '../guest/run/about.ts';

export interface L2ImageSpec {
  packages: readonly string[];
  files?: Readonly<Record<string, string>>;
  /** What `update-alternatives` would make: link to target. */
  links?: Readonly<Record<string, string>>;
  /** Modules of Python that are compiled beforehand, as their packages do on installation. */
  compilePython?: boolean;
  /** A snapshot for Redis, of so many MiB of values. */
  redisSnapshotMib?: number;
  about: Omit<ImageAbout, 'schema' | 'name'>;
}

const hex = (text: string): string => Buffer.from(text, 'latin1').toString('hex');
const HTTP = { send: hex('GET / HTTP/1.0\r\n\r\n'), expect: hex('HTTP/1') };
/** JRMP, the protocol of Java's RMI: magic, version, stream protocol; answered by an acknowledgement. */
const JRMP = { send: '4a524d4900024b', expect: '4e' };

const SERVE_SH = `#!/bin/bash
# one answer: run by nc for each connection
read -r _
printf 'HTTP/1.0 200 OK\\r\\n\\r\\nbash %s\\n' "$BASH_VERSION"
`;
const BASH_COMMAND = ['/bin/bash', '-c', 'exec busybox nc -ll -p 8080 -e /srv/serve.sh'];

const SERVE_JS = `require('node:http')
  .createServer((_, answer) => answer.end('node ' + process.version + '\\n'))
  .listen(8080);
`;

const SERVE_PY = `import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'python {sys.version}\\n'.encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(('', 8080), Handler).serve_forever()
`;

const SERVE_PANDAS = `import http.server
import pandas
table = pandas.DataFrame({'key': list('abcd') * 2500, 'value': range(10000)})
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(table.groupby('key').sum().to_csv().encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(('', 8080), Handler).serve_forever()
`;

const NGINX_CONF = `daemon off;
user root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 512; }
http {
  access_log off;
  server { listen 80; root /usr/share/nginx/html; }
}
`;

const REDIS = ['redis-server', '--port', '6379', '--bind', '*', '--protected-mode', 'no', '--save', ''];
const PING = { port: 6379, send: hex('PING\r\n'), expect: hex('+PONG') };

/** numpy's linear algebra, as the alternatives of libblas3 and liblapack3 give it. */
const BLAS = {
  'usr/lib/x86_64-linux-gnu/libblas.so.3': 'blas/libblas.so.3',
  'usr/lib/x86_64-linux-gnu/liblapack.so.3': 'lapack/liblapack.so.3',
};

export const L2_IMAGES: Readonly<Record<string, L2ImageSpec>> = {
  bash: {
    packages: ['bash', 'busybox-static'],
    files: { 'srv/serve.sh': SERVE_SH },
    about: { command: BASH_COMMAND, memMib: 128, service: { port: 8080, ...HTTP } },
  },
  'bash-debian': {
    // what an installed Debian has at least
    packages: ['?priority(required)', '?priority(important)', 'busybox-static'],
    files: { 'srv/serve.sh': SERVE_SH },
    about: { command: BASH_COMMAND, memMib: 128, service: { port: 8080, ...HTTP } },
  },
  java: {
    packages: ['openjdk-17-jre-headless'],
    about: {
      // a server that comes with it: there is no compiler in a runtime environment
      command: ['/usr/lib/jvm/java-17-openjdk-amd64/bin/rmiregistry', '-J-Xmx64m', '1099'],
      memMib: 256,
      service: { port: 1099, ...JRMP },
    },
  },
  node: {
    packages: ['nodejs'],
    files: { 'srv/serve.js': SERVE_JS },
    about: { command: ['node', '/srv/serve.js'], memMib: 256, service: { port: 8080, ...HTTP } },
  },
  python: {
    packages: ['python3'],
    files: { 'srv/serve.py': SERVE_PY },
    compilePython: true,
    about: { command: ['python3', '/srv/serve.py'], memMib: 128, service: { port: 8080, ...HTTP } },
  },
  pandas: {
    packages: ['python3-pandas'],
    files: { 'srv/serve.py': SERVE_PANDAS },
    links: BLAS,
    compilePython: true,
    about: { command: ['python3', '/srv/serve.py'], memMib: 256, service: { port: 8080, ...HTTP } },
  },
  memcached: {
    packages: ['memcached'],
    about: {
      command: ['memcached', '-u', 'root', '-m', '64'],
      memMib: 192,
      service: { port: 11_211, send: hex('version\r\n'), expect: hex('VERSION') },
    },
  },
  redis: {
    packages: ['redis-server'],
    about: { command: REDIS, memMib: 192, service: PING },
  },
  'redis-snapshot': {
    packages: ['redis-server'],
    redisSnapshotMib: 256,
    about: { command: [...REDIS, '--dir', '/srv', '--dbfilename', 'dump.rdb'], memMib: 896, service: PING },
  },
  nginx: {
    packages: ['nginx-light'],
    files: { 'etc/nginx/hyperturtle.conf': NGINX_CONF },
    about: {
      command: ['nginx', '-c', '/etc/nginx/hyperturtle.conf'],
      memMib: 128,
      service: { port: 80, ...HTTP },
    },
  },
};

/** No services: what asks them, or looks at them, for a machine that looks on from outside. */
export const CLIENT_IMAGES: Readonly<Record<string, L2ImageSpec>> = {
  'load-generators': {
    packages: ['libmemcached-tools', 'redis-tools', 'apache2-utils'],
    about: { command: ['redis-benchmark'], memMib: 128 },
  },
  // for an L1 that profiles its nested guests by itself
  perf: {
    packages: ['linux-perf'],
    about: { command: ['perf', 'version'], memMib: 128 },
  },
};

export const L2_IMAGE_NAMES = Object.keys(L2_IMAGES);
