/** The API as the plugin has it, against the .proto file that was written by the published one. */
import path from 'node:path';
import { fromJSON, loadSync } from '@grpc/proto-loader';
import { expect, it } from 'vitest';
import { API_JSON } from '../../../../src/kubernetes/device-plugin/api.ts';

const FILE = path.resolve(import.meta.dirname, '../../../support/kubelet/api.proto');

/** Names, numbers and types of all fields, and the paths of all methods: what is on the wire. */
function onTheWire(definition: ReturnType<typeof loadSync>): unknown {
  return Object.fromEntries(
    Object.entries(definition).map(([name, d]) => {
      if ('type' in d) {
        const { field = [] } = d.type as {
          field?: { name: string; number: number; type: string; label: string; typeName: string }[];
        };
        return [
          name,
          field.map((f) => [f.name, f.number, f.type, f.label, f.typeName.replace(/^\.?v1beta1\./, '')]),
        ];
      }
      const methods = Object.entries(d as Record<string, { path: string; responseStream: boolean }>);
      return [name, methods.map(([m, { path: at, responseStream }]) => [m, at, responseStream])];
    }),
  );
}

it('has the messages and methods of the published file, by their names, numbers and types', () => {
  const options = { keepCase: true };
  const ours = onTheWire(fromJSON(API_JSON() as unknown as Parameters<typeof fromJSON>[0], options));
  const published = onTheWire(loadSync(FILE, options));
  expect(ours).toEqual(published);
  expect(published).toHaveProperty(
    ['v1beta1.Device'],
    [
      ['ID', 1, 'TYPE_STRING', 'LABEL_OPTIONAL', ''],
      ['health', 2, 'TYPE_STRING', 'LABEL_OPTIONAL', ''],
      ['topology', 3, 'TYPE_MESSAGE', 'LABEL_OPTIONAL', 'TopologyInfo'],
    ],
  );
});
