"""Bucket notifications: has MinIO send an event to Kafka for each object that is put below a prefix.

The Kafka target is a setting of the server: MINIO_NOTIFY_KAFKA_* in its environment, see docs/events.md.
"""

from minio import Minio
from minio.error import S3Error
from minio.notificationconfig import NotificationConfig, PrefixFilterRule, QueueConfig

from schemas.errors import ConfigurationError

CREATED = "s3:ObjectCreated:*"
# SeaweedFS takes the request for one that makes the bucket.
NOT_OFFERED = ("NotImplemented", "BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def enable_notifications(client: Minio, bucket: str, prefix: str, target: str) -> None:
    """Adds the notification to the bucket; its other notifications stay as they are.

    `target`: as in MINIO_NOTIFY_KAFKA_ENABLE_<target>. Raises ConfigurationError if the server has no such target, or
    no notifications, and the errors of minio.
    """
    arn = f"arn:minio:sqs::{target}:kafka"
    current = client.get_bucket_notification(bucket)
    others = [queue_config for queue_config in current.queue_config_list if queue_config.queue != arn]
    ours = QueueConfig(queue=arn, events=[CREATED], prefix_filter_rule=PrefixFilterRule(prefix))
    try:
        client.set_bucket_notification(
            bucket, NotificationConfig(current.cloud_func_config_list, [*others, ours], current.topic_config_list)
        )
    except S3Error as error:
        if error.code in NOT_OFFERED:
            raise ConfigurationError(
                "the store announces no objects to Kafka: send events for them, as docs/events.md says, or use MinIO"
            ) from None
        if error.code != "InvalidArgument":  # MinIO's answer for a target that it does not have
            raise
        raise ConfigurationError(
            f"the store has no Kafka target '{target}': start MinIO with MINIO_NOTIFY_KAFKA_ENABLE_{target}=on"
            " and the settings beside it that docs/events.md shows"
        ) from None
