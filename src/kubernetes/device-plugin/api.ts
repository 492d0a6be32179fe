/**
 * Kubelet's device plugin API v1beta1: its messages as protobufjs describes them, and their types. Source: the published
 * pkg/apis/deviceplugin/v1beta1/api.proto of k8s.io/kubelet (0.34), by its names and numbers. A test holds this against a
 * .proto file, and speaks with it to a client made of that file.
 */
import type { ServiceDefinition } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';
import { lazy } from '../../core/lazy.ts';

export const API_VERSION = 'v1beta1';
export const KUBELET_SOCKET = 'kubelet.sock';

export interface DevicePluginOptions {
  pre_start_required: boolean;
  get_preferred_allocation_available: boolean;
}

export interface RegisterRequest {
  version: string;
  /** Name of the plugin's socket in the directory of kubelet's. */
  endpoint: string;
  resource_name: string;
  options: DevicePluginOptions;
}

export interface Device {
  ID: string;
  health: 'Healthy' | 'Unhealthy';
  /** Null: nobody knows. */
  topology: { nodes: { ID: number }[] } | null;
}

export interface ListAndWatchResponse {
  devices: Device[];
}

export interface ContainerRequest {
  devices_ids: string[];
}

interface DeviceSpec {
  container_path: string;
  host_path: string;
  /** As cgroups have them: `r`, `w`, `m`ake. */
  permissions: string;
}

export interface ContainerAllocateResponse {
  envs: Record<string, string>;
  devices: DeviceSpec[];
}

export interface PreferredAllocationRequest {
  available_deviceIDs: string[];
  must_include_deviceIDs: string[];
  allocation_size: number;
}

const field = (type: string, id: number) => ({ type, id });
const list = (type: string, id: number) => ({ rule: 'repeated', type, id });
const strings = (id: number) => ({ keyType: 'string', type: 'string', id });

/** Messages by name, with their fields. */
const MESSAGES = {
  DevicePluginOptions: {
    pre_start_required: field('bool', 1),
    get_preferred_allocation_available: field('bool', 2),
  },
  RegisterRequest: {
    version: field('string', 1),
    endpoint: field('string', 2),
    resource_name: field('string', 3),
    options: field('DevicePluginOptions', 4),
  },
  Empty: {},
  ListAndWatchResponse: { devices: list('Device', 1) },
  TopologyInfo: { nodes: list('NUMANode', 1) },
  NUMANode: { ID: field('int64', 1) },
  Device: { ID: field('string', 1), health: field('string', 2), topology: field('TopologyInfo', 3) },
  PreStartContainerRequest: { devices_ids: list('string', 1) },
  PreStartContainerResponse: {},
  PreferredAllocationRequest: { container_requests: list('ContainerPreferredAllocationRequest', 1) },
  ContainerPreferredAllocationRequest: {
    available_deviceIDs: list('string', 1),
    must_include_deviceIDs: list('string', 2),
    allocation_size: field('int32', 3),
  },
  PreferredAllocationResponse: { container_responses: list('ContainerPreferredAllocationResponse', 1) },
  ContainerPreferredAllocationResponse: { deviceIDs: list('string', 1) },
  AllocateRequest: { container_requests: list('ContainerAllocateRequest', 1) },
  ContainerAllocateRequest: { devices_ids: list('string', 1) },
  CDIDevice: { name: field('string', 1) },
  AllocateResponse: { container_responses: list('ContainerAllocateResponse', 1) },
  ContainerAllocateResponse: {
    envs: strings(1),
    mounts: list('Mount', 2),
    devices: list('DeviceSpec', 3),
    annotations: strings(4),
    cdi_devices: list('CDIDevice', 5),
  },
  Mount: {
    container_path: field('string', 1),
    host_path: field('string', 2),
    read_only: field('bool', 3),
  },
  DeviceSpec: {
    container_path: field('string', 1),
    host_path: field('string', 2),
    permissions: field('string', 3),
  },
};

const call = (requestType: string, responseType: string) => ({ requestType, responseType });

const SERVICES = {
  Registration: { Register: call('RegisterRequest', 'Empty') },
  DevicePlugin: {
    GetDevicePluginOptions: call('Empty', 'DevicePluginOptions'),
    ListAndWatch: { ...call('Empty', 'ListAndWatchResponse'), responseStream: true },
    GetPreferredAllocation: call('PreferredAllocationRequest', 'PreferredAllocationResponse'),
    Allocate: call('AllocateRequest', 'AllocateResponse'),
    PreStartContainer: call('PreStartContainerRequest', 'PreStartContainerResponse'),
  },
};

/** As protobufjs has a file of `syntax = "proto3"`. */
export const API_JSON = lazy(() => ({
  options: { syntax: 'proto3' },
  nested: {
    [API_VERSION]: {
      nested: {
        ...Object.fromEntries(Object.entries(MESSAGES).map(([name, fields]) => [name, { fields }])),
        ...Object.fromEntries(Object.entries(SERVICES).map(([name, methods]) => [name, { methods }])),
      },
    },
  },
}));

const definitions = lazy(() =>
  fromJSON(API_JSON() as unknown as Parameters<typeof fromJSON>[0], {
    keepCase: true,
    longs: Number,
    defaults: true,
    arrays: true,
    objects: true,
  }),
);

/** Methods of a service, with their codecs. */
export function serviceOf(name: keyof typeof SERVICES): ServiceDefinition {
  return definitions()[`${API_VERSION}.${name}`] as ServiceDefinition;
}
