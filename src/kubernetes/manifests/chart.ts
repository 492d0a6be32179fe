/** The chart: a directory's files, made of the same objects as the plain manifests. */
import { z } from 'zod';
import { objects } from './objects.ts';
import { templateOf, yaml } from './template.ts';
import { ChartValues, defaultValues } from './values.ts';

const NOTES = `Label the nodes that run nested guests, once each:

  kubectl label node NODE hyperturtle.io/node=true

Nodes where acceleration is in force are labelled hyperturtle.io/accelerated=true.
`;

/** Paths and contents. `version`: of this package, of the chart and of the images. */
export function chartFiles(version: string): Map<string, string> {
  const about = {
    apiVersion: 'v2',
    name: 'hyperturtle',
    description: 'Fast nested virtualization: the agent of each node whose pods are VMs',
    type: 'application',
    version,
    appVersion: version,
    kubeVersion: '>=1.25.0-0',
  };
  const schema = z.toJSONSchema(ChartValues(), { target: 'draft-7', io: 'input' });
  return new Map([
    ['Chart.yaml', yaml(about)],
    ['values.yaml', yaml(defaultValues(version))],
    ['values.schema.json', `${JSON.stringify(schema, null, 2)}\n`],
    ['templates/NOTES.txt', NOTES],
    ...[...objects()].map(([name, node]) => [`templates/${name}.yaml`, templateOf(node)] as const),
  ]);
}
