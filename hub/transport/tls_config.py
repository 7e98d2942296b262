"""What a person can configure of TLS, the same for DICOM and HL7 v2."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr


class TlsServerConfig(BaseModel):
    """TLS by BCP 195 (DICOM: PS3.15 B.12 and B.13) where others connect to us."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: FilePath = Field(description="PEM file: our certificate, then its chain.")
    private_key: FilePath = Field(description="PEM file: the certificate's private key.")
    private_key_password: SecretStr | None = Field(
        None, description="Of an encrypted private key; write `env:NAME` or `file:/path`."
    )
    client_certificates: Literal["none", "optional", "required"] = Field(
        "required", description="Whether peers have to show a certificate that is trusted."
    )
    trusted: FilePath | None = Field(
        None, description="PEM file: the authorities that sign the peers' certificates."
    )
    minimum: Literal["1.2", "1.3"] = Field("1.2", description="The oldest version of TLS.")


class TlsClientConfig(BaseModel):
    """TLS by BCP 195 (DICOM: PS3.15 B.12 and B.13) where we connect to others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trusted: FilePath | None = Field(
        None, description="PEM file: the authorities to trust instead of the system's."
    )
    verify_host: bool = Field(
        default=True, description="Whether the peer's certificate has to name its host."
    )
    certificate: FilePath | None = Field(
        None, description="PEM file: our certificate, then its chain, for peers that want one."
    )
    private_key: FilePath | None = Field(
        None, description="PEM file: the certificate's private key."
    )
    private_key_password: SecretStr | None = Field(
        None, description="Of an encrypted private key; write `env:NAME` or `file:/path`."
    )
    minimum: Literal["1.2", "1.3"] = Field("1.2", description="The oldest version of TLS.")
