"""The token of a server: given, required, or deliberately none."""

import pytest

from ds2_jax.serving.settings import Address


def test_a_required_token_may_be_none_but_not_missing():
    assert Address.read_token("secret", required=True) == Address.read_token("secret", required=False) == "secret"
    assert Address.read_token("none", required=True) == Address.read_token("", required=False) == ""
    with pytest.raises(ValueError, match=r"set DS2_TOKEN \(or --token=...\); --token=none serves without a token"):
        Address.read_token("", required=True)
