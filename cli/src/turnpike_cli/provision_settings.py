"""What `turnpike provision` reads from its environment; no other module reads it."""

from pydantic import Field, FilePath, SecretStr

from billing_common.settings import KafkaSettings, SettingsConfigDict


class ProvisionSettings(KafkaSettings):
    """Each step needs its own; none is required by all."""

    model_config = SettingsConfigDict(env_prefix="TURNPIKE_", frozen=True)

    database_admin_url: SecretStr | None = Field(
        default=None, description="a superuser's postgresql:// address, with the host as the services see it"
    )
    database_name: str = Field(default="turnpike", pattern="^[a-z_][a-z0-9_]{0,62}$", description="the database; made when missing")
    kafka_bootstrap_servers: str = Field(default="", description="host:port, comma separated")
    topic_partitions: int = Field(default=4, ge=1, le=1000)
    topic_replication_factor: int = Field(default=1, ge=1, le=10, description="3 in production")
    stripe_api_key: SecretStr | None = Field(
        default=None,
        description="may write webhook endpoints; given to services that have no STRIPE_API_KEY of their own in the environment",
    )
    stripe_api_base: str | None = Field(default=None, description="the sandbox; Stripe itself when absent")
    webhook_url: str | None = Field(
        default=None, pattern="^https?://", description="where Stripe reaches webhook_ingress, with /webhooks/stripe"
    )
    apim_ca_file: FilePath | None = Field(default=None, description="sandbox only: CA of its management API, copied to the services")
    apim_static_token: SecretStr | None = Field(default=None, description="sandbox only: the bearer token of its management API")
