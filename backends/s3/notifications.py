"""Telling a bucket on MinIO to announce what is put below `incoming/`, to one of the server's Kafka targets.

The target itself is a setting of the server: MINIO_NOTIFY_KAFKA_* in its environment, see docs/events.md.
"""

from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, PrefixFilterRule, QueueConfig

from schemas.errors import ConfigurationError

CREATED = "s3:ObjectCreated:*"


def announce(client: Minio, bucket: str, prefix: str, target: str) -> None:
    """What else the bucket announces stays as it is. `target`: as in MINIO_NOTIFY_KAFKA_ENABLE_<target>. Raises
    ConfigurationError where the server has no such target, and the errors of minio.
    """
    arn = f"arn:minio:sqs::{target}:kafka"
    told = client.get_bucket_notification(bucket)
    others = [it for it in told.queue_config_list if it.queue != arn]
    ours = QueueConfig(queue=arn, events=[CREATED], prefix_filter_rule=PrefixFilterRule(prefix))
    try:
        client.set_bucket_notification(
            bucket, NotificationConfig(told.cloud_func_config_list, [*others, ours], told.topic_config_list)
        )
    except S3Error as error:
        if error.code != "InvalidArgument":  # what MinIO says of a target that it does not have
            raise
        raise ConfigurationError(
            f"the store has no Kafka target '{target}': start MinIO with MINIO_NOTIFY_KAFKA_ENABLE_{target}=on and the settings"
            " beside it that docs/events.md shows"
        ) from None
