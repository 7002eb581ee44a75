"""A model for every hospital from the distribution of its features, Kitrungrotsakul et al.; nobody retrains when somebody comes or goes."""
