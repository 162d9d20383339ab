"""The descriptor pool that rusd's messages live in, apart from the process's default one."""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
