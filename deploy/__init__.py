"""What runs Candlecast elsewhere: images, rules, dashboards, charts."""
