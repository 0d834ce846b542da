"""People of an identity provider (OpenID Connect): its keys, the tokens that it signs, and what a group may do here."""
