"""Batches to where they are used: ahead of time onto the device, or from other machines by the `tf.data` service."""

import tensorflow as tf


def prefetch_to_device(dataset, buffer=2):
    """Copies batches to the GPU while it computes on earlier ones; without a GPU, makes them ahead of time.

    The last transformation of a pipeline, for a loop of one's own; `fit` copies by itself and wants data sets on the host.

    Args:
        dataset: `tf.data.Dataset`.
        buffer: int >= 1, batches that wait on the device.

    Returns:
        `tf.data.Dataset` of the same elements in the same order.

    Raises:
        ValueError: when `buffer` is below 1.

    Example:
        >>> [int(x) for x in prefetch_to_device(tf.data.Dataset.range(3))]
        [0, 1, 2]
    """
    if buffer < 1:
        raise ValueError(f"buffer must be at least 1; got {buffer}")
    devices = tf.config.list_logical_devices("GPU")
    if not devices:
        return dataset.prefetch(buffer)
    return dataset.apply(tf.data.experimental.prefetch_to_device(devices[0].name, buffer))


def distribute(dataset, service, *, job=None):
    """Lets the workers of a `tf.data` service make the elements, each element once in all, in no fixed order.

    The workers share out the elements of the data set's source (the numbers of a `Dataset.range`, the files of a list) among
    them, and among all readers of one `job`. The source of `lm_dataset`, `packed_dataset` and `pair_dataset` is their
    epochs: make them with `epochs=None` for several workers. What one reader gets is no longer a function of a seed and a
    step, so exact resuming needs `num_workers` and `worker` of those functions instead.

    Args:
        dataset: `tf.data.Dataset`.
        service: str, the address of the dispatcher, such as "grpc://host:5000".
        job: str, the name under which several readers share one pass, or None for a pass of one's own.

    Returns:
        `tf.data.Dataset` of the same elements.

    Raises:
        ValueError: when `service` is not an address.

    Example:
        >>> dispatcher = tf.data.experimental.service.DispatchServer()
        >>> address = dispatcher.target.split("://")[1]
        >>> worker = tf.data.experimental.service.WorkerServer(
        ...     tf.data.experimental.service.WorkerConfig(dispatcher_address=address)
        ... )
        >>> sorted(int(x) for x in distribute(tf.data.Dataset.range(5), dispatcher.target))
        [0, 1, 2, 3, 4]
    """
    if not isinstance(service, str) or not all(service.partition("://")):
        raise ValueError(f"service must be an address such as 'grpc://host:5000'; got {service!r}")
    return dataset.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC, service=service, job_name=job
        )
    )
