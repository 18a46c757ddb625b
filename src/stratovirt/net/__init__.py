"""Network back ends: taps and vhost-user."""
